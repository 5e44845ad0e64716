"""The least l1 norm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from workloads.factorizations.base import Cost
from workloads.factorizations.solved import LeastNorm
from workloads.section import Conflict

if TYPE_CHECKING:
    from workloads.factorizations.programs.douglas_rachford import Norm


class L1Norm(LeastNorm):
    """The vector of least l1 norm that fits the observations (basis pursuit: Chen, Donoho and Saunders 1998), to a ``tolerance``."""

    kind = "l1_norm"
    example = "{kind: l1_norm, tolerance: 1e-8}"

    def conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        if len(shape) != 1:
            other = "nuclear_norm or min_frobenius" if len(shape) == 2 else "min_frobenius or linear"
            yield "factorization.kind", f"l1_norm is for vectors, but shape is {list(shape)}: use {other}"

    def cost(self, shape: tuple[int, ...]) -> Cost:
        return Cost(20 * math.prod(shape), 0, 3)

    def norm(self) -> Norm:
        from workloads.factorizations.programs.douglas_rachford import L1

        return L1
