"""Ground truths that are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator, Field

from workloads.section import Conflict, Count, Finite, Magnitude, Section, as_tuple

LARGEST_CONDITION = 1e15
"""Beyond it the smallest singular values of a matrix in float64 are those of its rounding."""


class Target(Section):
    """A drawn ground truth of given rank (CP rank for tensors) and Frobenius norm."""

    rank: Count
    """Of the ground truth; of a tensor, its CP rank."""
    frobenius: Magnitude = 1.0
    """Norm of the ground truth."""
    condition: Annotated[Finite, Field(ge=1, le=LARGEST_CONDITION)] | None = None
    """Largest over smallest of the `rank` singular values, evenly spaced in their logarithms; of a tensor, of its components' norms."""
    spectrum: Annotated[tuple[Magnitude, ...], BeforeValidator(as_tuple), Field(min_length=1)] | None = None
    """The `rank` singular values themselves, instead of a norm; of a tensor, the norms of its components."""

    def conflicts(self) -> Iterator[Conflict]:
        """Yield what the fields' types alone cannot refuse."""
        if self.condition is not None and self.rank == 1:
            yield "problem.target.condition", "has no effect with rank 1"
        if self.spectrum is None:
            return
        if len(self.spectrum) != self.rank:
            yield "problem.target.spectrum", f"has {len(self.spectrum)} values, but rank is {self.rank}"
        for key in ("frobenius", "condition"):
            if key in self.model_fields_set and getattr(self, key) is not None:
                yield f"problem.target.{key}", "has no effect beside problem.target.spectrum"
