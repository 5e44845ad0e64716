"""Diagonal linear networks (Woodworth et al. 2020, arXiv 2002.09277)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from workloads.factorizations.base import Factorization
from workloads.section import Conflict, Count

if TYPE_CHECKING:
    from torch import Tensor


class Diagonal(Factorization):
    """w = u^L - v^L entry by entry, with L = `depth`: a network of diagonal layers; without a second part if it is not `signed`."""

    kind = "diagonal"
    example = "{kind: diagonal, depth: 2}"

    depth: Annotated[Count, Field(ge=2, le=64)]
    """The power L of u and v."""
    signed: bool = True
    """Whether v^L is subtracted: without, an even power leaves no negative entries."""

    def shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"u": shape, "v": shape} if self.signed else {"u": shape}

    def product(self, *factors: Tensor) -> Tensor:
        plus, *minus = (factor**self.depth for factor in factors)
        return plus - minus[0] if minus else plus

    def conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        if len(shape) != 1:
            yield "factorization.kind", f"diagonal is for vectors, but shape is {list(shape)}: use deep_matrix"
            return
        yield from super().conflicts(shape)
