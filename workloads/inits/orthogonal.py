"""Orthogonal starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from workloads.factorizations import Factorization
from workloads.inits.base import Scaled
from workloads.section import Conflict

if TYPE_CHECKING:
    from workloads.inits.base import Dims, Files, Matrix, Rng


class Orthogonal(Scaled):
    """Each factor is ``scale`` times a random matrix with orthonormal rows or columns, whichever are fewer."""

    kind = "orthogonal"
    example = "{kind: orthogonal, scale: 0.3, balanced: true}"

    def conflicts(self, factorization: Factorization, shape: tuple[int, ...] | None) -> Iterator[Conflict]:
        yield from super().conflicts(factorization, shape)
        if shape is not None:
            other = next((name for name, s in factorization.shapes(shape).items() if len(s) != 2), None)
            if other is not None:
                yield (
                    "init.kind",
                    f"orthogonal is for matrices, which {other} of {factorization.kind} is not: use gaussian",
                )

    def draw(self, factorization: Factorization, shape: Dims, rng: Rng, files: Files) -> list[Matrix]:
        """See `Init.draw`. Uniformly distributed (Mezzadri 2007)."""
        import numpy as np

        factors = []
        for (rows, columns), scale in zip(factorization.shapes(shape).values(), self.factor_scales(factorization, shape), strict=True):
            q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
            q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
            factors.append(scale * (q if rows >= columns else q.T))
        return factors
