"""Constant starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.factorizations import Factorization
from workloads.inits.base import Scaled

if TYPE_CHECKING:
    from workloads.inits.base import Dims, Files, Matrix, Rng


class Constant(Scaled):
    """Every entry of a factor is ``scale``: where diagonal networks start, u = v (Woodworth et al. 2020, arXiv 2002.09277, section 2)."""

    kind = "constant"
    example = "{kind: constant, scale: 0.1}"
    seeded = False

    def draw(self, factorization: Factorization, shape: Dims, rng: Rng, files: Files) -> list[Matrix]:
        import numpy as np

        scales = self.factor_scales(factorization, shape)
        return [np.full(s, scale) for s, scale in zip(factorization.shapes(shape).values(), scales, strict=True)]
