"""Identities as starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.factorizations import Factorization
from workloads.inits.base import Scaled

if TYPE_CHECKING:
    from workloads.inits.base import Dims, Files, Matrix, Rng


class Identity(Scaled):
    """Each factor is ``scale`` times a (rectangular) identity; one of higher order has ones where all indices are equal."""

    kind = "identity"
    example = "{kind: identity, scale: 0.1}"
    seeded = False

    def draw(self, factorization: Factorization, shape: Dims, rng: Rng, files: Files) -> list[Matrix]:
        import numpy as np

        factors = []
        for dimensions, scale in zip(factorization.shapes(shape).values(), self.factor_scales(factorization, shape), strict=True):
            factor = np.zeros(dimensions)
            factor[(np.arange(min(dimensions)),) * len(dimensions)] = 1.0
            factors.append(factor * scale)
        return factors
