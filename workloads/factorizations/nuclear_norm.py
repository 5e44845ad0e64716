"""The least nuclear norm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from workloads.factorizations.base import Cost
from workloads.factorizations.solved import LeastNorm
from workloads.section import Conflict

if TYPE_CHECKING:
    from workloads.factorizations.programs.douglas_rachford import Norm


class NuclearNorm(LeastNorm):
    """The matrix of least nuclear norm that fits the observations; ``tolerance`` is the relative duality gap at which it is solved."""

    kind = "nuclear_norm"
    example = "{kind: nuclear_norm, tolerance: 1e-8}"

    def conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        if len(shape) != 2:
            other = "min_frobenius or linear" if len(shape) > 2 else "l1_norm, min_frobenius or linear"
            yield "factorization.kind", f"nuclear_norm is for matrices, but shape is {list(shape)}: use {other}"

    def cost(self, shape: tuple[int, ...]) -> Cost:
        """See `Factorization.cost`: the eigenvectors of the smaller Gram matrix, and three products with them."""
        return Cost(30 * math.prod(shape) * min(shape), 0, 3)

    def norm(self) -> Norm:
        from workloads.factorizations.programs.douglas_rachford import NUCLEAR

        return NUCLEAR
