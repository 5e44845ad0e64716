"""Symmetric factorizations (Gunasekar et al. 2017, arXiv 1705.09280, equation 3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from workloads.factorizations.base import Factorization
from workloads.section import Conflict, Count

if TYPE_CHECKING:
    from torch import Tensor


class Symmetric(Factorization):
    """W = U U^T, which is positive semidefinite, or, if it is `signed`, U U^T - V V^T, which is any symmetric matrix."""

    kind = "symmetric"
    example = "{kind: symmetric, width: 5}"
    derived = ("width",)

    width: Count | None = None
    """Columns of U, and of V: by default as many as the matrix has."""
    signed: bool = False
    """Whether V V^T is subtracted."""

    def shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        factor = (shape[0], self.width or shape[0])
        return {"U": factor, "V": factor} if self.signed else {"U": factor}

    def product(self, *factors: Tensor) -> Tensor:
        plus, *minus = (factor @ factor.mT for factor in factors)
        return plus - minus[0] if minus else plus

    def resolved(self, shape: tuple[int, ...]) -> dict[str, int]:
        return {"width": self.width or shape[0]}

    def conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        if len(shape) != 2 or shape[0] != shape[1]:
            yield "factorization.kind", f"symmetric is for square matrices, but shape is {list(shape)}"
            return
        yield from super().conflicts(shape)
