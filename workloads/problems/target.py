"""Ground truths that are drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from workloads.amounts import amount
from workloads.mode_tree import ONE_NODE, ModeTree, Pattern
from workloads.section import MAX_ORDER, Conflict, Count, Counts, Finite, Magnitude, Section, as_tuple

LARGEST_CONDITION = 1e15
"""Beyond it the smallest singular values of a matrix in float64 are those of its rounding."""
HIERARCHICAL = {"arity": 2, "pattern": "adjacent"}
"""What a hierarchical truth is unless it is said: nothing of this is a key of another one."""


class Target(Section):
    """A drawn ground truth of given norm and rank (of tensors CP rank, of vectors sparsity), or of `kind: hierarchical` and widths."""

    kind: Literal["hierarchical"] | None = None
    """`hierarchical` for a tensor of a hierarchical factorization whose factors are standard normal, rather than one of low rank."""
    rank: Count | None = None
    """Of the ground truth, required unless it has a kind or is a vector; of a tensor, its components: its CP rank, unless fewer suffice."""
    sparsity: Count | None = None
    """Of a vector: how many of its entries are not zero; all unless given."""
    domain: Literal["fourier"] | None = None
    """Of a vector: `fourier` if `sparsity` is how many frequencies its discrete Fourier transform has, rather than entries."""
    widths: Counts | None = None
    """Of a hierarchical truth: the width of each level, required."""
    arity: Annotated[Count, Field(ge=2, le=MAX_ORDER)] | None = None
    """Of a hierarchical truth: how many nodes are joined in one; 2 unless given."""
    pattern: Pattern | None = None
    """Of a hierarchical truth: which modes are joined; adjacent unless given."""
    frobenius: Magnitude = 1.0
    """Norm of the ground truth; of a vector, the Euclidean one."""
    condition: Annotated[Finite, Field(ge=1, le=LARGEST_CONDITION)] | None = None
    """Largest over smallest of the `rank` singular values, evenly spaced in their logarithms; of a tensor, of its components' norms; of a
    vector, of the magnitudes of what it has."""
    spectrum: Annotated[tuple[Magnitude, ...], BeforeValidator(as_tuple), Field(min_length=1)] | None = None
    """The `rank` singular values themselves, instead of a norm; of a tensor, the norms of its components; of a vector, the magnitudes of
    its entries, or frequencies."""

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, value: object) -> object:
        if not isinstance(value, Mapping) or value.get("kind") != "hierarchical":
            return value
        return {**HIERARCHICAL, **{key: given for key, given in value.items() if given is not None}}

    def canonical_in(self, shape: tuple[int, ...]) -> Any:
        """Return `canonical_fields` of a truth of ``shape``, which are the same for what is all of it unless given, and given as such."""
        fields = self.canonical_fields
        if len(shape) == 1 and self.domain is None and self.sparsity == shape[0]:
            del fields["sparsity"]
        return fields

    @property
    def terms(self) -> int:
        """The rank of a truth that has one."""
        assert self.rank is not None, "a hierarchical truth is drawn by its tree, and a vector has no rank"
        return self.rank

    def nonzeros(self, size: int) -> int:
        """Return how many entries, or frequencies, of a vector of so many entries are not zero."""
        return size if self.sparsity is None else self.sparsity

    def tree(self, order: int) -> ModeTree:
        """Return the tree of a hierarchical truth with so many modes. Raises `ValueError` where there is none."""
        assert self.arity is not None and self.pattern is not None, "a hierarchical truth has defaults"  # noqa: PT018
        return ModeTree.joining(order, self.arity, self.pattern)

    def conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        """Yield what the fields' types alone cannot refuse, for a vector, matrix or tensor of ``shape``."""
        if len(shape) == 1:
            yield from self._vector_conflicts(shape[0])
            return
        for key in ("sparsity", "domain"):
            if getattr(self, key) is not None:
                yield f"problem.target.{key}", "is for vectors: use rank"
        if self.kind == "hierarchical":
            yield from self._tree_conflicts(shape)
            return
        for key in ("widths", "arity", "pattern"):
            if getattr(self, key) is not None:
                yield f"problem.target.{key}", "has no effect without kind: hierarchical"
        if self.rank is None:
            yield "problem.target.rank", "is missing"
            return
        most, what = math.prod(shape) // max(shape), "matrix" if len(shape) == 2 else "tensor"
        if self.rank > most:
            yield "problem.target.rank", f"is {self.rank}, but a {what} of shape {list(shape)} has rank {most} at most"
        yield from self._size_conflicts("rank", self.rank)

    def ineffective(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        """Yield the keys that make no difference to a truth of ``shape``."""
        if self.pattern == "half" and self.arity == len(shape):
            yield "problem.target.pattern", ONE_NODE

    def _vector_conflicts(self, size: int) -> Iterator[Conflict]:
        for key in ("kind", "rank", "widths", "arity", "pattern"):
            if getattr(self, key) is not None:
                yield f"problem.target.{key}", f"is not for vectors{': use sparsity' if key == 'rank' else ''}"
                return
        if self.domain is not None and self.sparsity is None:
            yield "problem.target.domain", "has no effect without problem.target.sparsity"
        most, what = (size, "entries") if self.domain is None else (size // 2 + 1, "frequencies")
        if self.nonzeros(most) > most:
            yield "problem.target.sparsity", f"is {self.sparsity}, but a vector of {size} entries has {most} {what}"
        yield from self._size_conflicts("sparsity", self.nonzeros(size))

    def _size_conflicts(self, key: str, terms: int) -> Iterator[Conflict]:
        """Yield what is wrong with the sizes of so many terms."""
        if self.condition is not None and terms == 1:
            yield "problem.target.condition", f"has no effect with {key} 1"
        if self.spectrum is None:
            return
        if len(self.spectrum) != terms:
            yield "problem.target.spectrum", f"has {amount(len(self.spectrum), 'value')}, but {key} is {terms}"
        for key in ("frobenius", "condition"):
            if key in self.model_fields_set and getattr(self, key) is not None:
                yield f"problem.target.{key}", "has no effect beside problem.target.spectrum"

    def _tree_conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        for key in ("rank", "condition", "spectrum"):
            if getattr(self, key) is not None:
                yield f"problem.target.{key}", "has no effect with kind: hierarchical"
        try:
            levels = len(self.tree(len(shape)).levels) - 1
        except ValueError:
            yield (
                "problem.target.kind",
                f"hierarchical with arity {self.arity} needs an order that is a power of it, not shape {list(shape)}",
            )
            return
        if self.widths is None:
            yield "problem.target.widths", "is missing"
        elif len(self.widths) != levels:
            yield "problem.target.widths", f"needs one for each of {amount(levels, 'level')}, not {len(self.widths)}"
