"""Gaussian starts."""

from __future__ import annotations

from statistics import geometric_mean
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
        scales = self.factor_scales(factorization, shape)
        # The product's deviation depends on the product of the factors' alone. Of equal ones the mean is to be that very number.
        scale = scales[0] if len({*scales}) == 1 else geometric_mean(scales)
        deviation = factorization.product_deviation(scale, shape) if self.balanced else None
        if deviation is not None:
            return factorization.taken_apart(rng.standard_normal(shape) * deviation, shape)
        return [rng.standard_normal(s) * scale for s, scale in zip(factorization.shapes(shape).values(), scales, strict=True)]
