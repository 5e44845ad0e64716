"""Gaussian starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.factorizations import Factorization
from workloads.inits.base import Scaled

if TYPE_CHECKING:
    from workloads.inits.base import Dims, Files, Matrix, Rng


class Gaussian(Scaled):
    """Independent normal entries: ``scale`` is a factor entry's standard deviation, ``product_scale`` a product entry's."""

    kind = "gaussian"
    example = "{kind: gaussian, product_scale: 1e-5, det_sign: positive}"
    independent = True

    def draw(self, factorization: Factorization, shape: Dims, rng: Rng, files: Files) -> list[Matrix]:
        scale = self.factor_scale(factorization, shape)
        deviation = factorization.product_deviation(scale, shape) if self.balanced else None
        if deviation is not None:
            return factorization.taken_apart(rng.standard_normal(shape) * deviation, shape)
        return [rng.standard_normal(s) * scale for s in factorization.shapes(shape).values()]
