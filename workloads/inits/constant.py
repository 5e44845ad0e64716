"""Constant starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from workloads.factorizations import Factorization
from workloads.inits.base import Scaled
from workloads.section import Conflict

if TYPE_CHECKING:
    from workloads.inits.base import Dims, Files, Matrix, Rng


class Constant(Scaled):
    """Every entry of a factor is ``scale``: where diagonal networks start, u = v (Woodworth et al. 2020, arXiv 2002.09277, section 2)."""

    kind = "constant"
    example = "{kind: constant, scale: 0.1}"
    seeded = False

    def conflicts(self, factorization: Factorization, shape: Dims | None) -> Iterator[Conflict]:
        wrong = list(super().conflicts(factorization, shape))
        yield from wrong
        known = self.det_sign is not None and shape is not None and "init.det_sign" not in dict(wrong)
        if known and factorization.chained and shape != (1, 1):
            yield "init.det_sign", "cannot hold: factors of equal entries have a product of rank one, whose determinant is zero"

    def draw(self, factorization: Factorization, shape: Dims, rng: Rng, files: Files) -> list[Matrix]:
        import numpy as np

        scales = self.factor_scales(factorization, shape)
        return [np.full(s, scale) for s, scale in zip(factorization.shapes(shape).values(), scales, strict=True)]
