"""Identities as starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from workloads.factorizations import Factorization
from workloads.inits.base import Scaled

if TYPE_CHECKING:
    import numpy as np

    from workloads.inits.base import Matrix


class Identity(Scaled):
    """Each factor is ``scale`` times a (rectangular) identity; one of higher order has ones where all indices are equal."""

    kind = "identity"

    def draw(
        self,
        factorization: Factorization,
        shape: tuple[int, ...],
        rng: np.random.Generator,
        files: Mapping[str, bytes],
    ) -> list[Matrix]:
        import numpy as np

        scale = self.factor_scale(factorization, shape)
        factors = []
        for dimensions in factorization.shapes(shape).values():
            factor = np.zeros(dimensions)
            factor[(np.arange(min(dimensions)),) * len(dimensions)] = 1.0
            factors.append(factor * scale)
        return factors
