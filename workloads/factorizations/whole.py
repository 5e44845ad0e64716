"""What has no factors: the matrix or tensor is its own parameter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from workloads.factorizations.base import Cost, Factorization, Program
from workloads.section import Conflict

if TYPE_CHECKING:
    from torch import Tensor


class Whole(Factorization):
    """The matrix or tensor itself, one parameter ``W``."""

    starts = False

    def shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"W": shape}

    def conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        # It is as large as the problem, whose size is held to the same limit.
        return iter(())

    def program_key(self, shape: tuple[int, ...]) -> object:
        return self.kind

    def product(self, *factors: Tensor) -> Tensor:
        return factors[0]

    def products(self, factors: Sequence[Tensor]) -> Tensor:
        return factors[0]

    def program(self, params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor) -> Program:
        from workloads.factorizations.programs.linear import LinearProgram

        return LinearProgram(params[0], grads[0], outer)

    def cost(self, shape: tuple[int, ...]) -> Cost:
        return Cost(0, 0, 3)
