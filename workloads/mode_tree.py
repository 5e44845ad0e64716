"""Trees of modes: how a hierarchical factorization joins the dimensions of a tensor. No torch here: planning asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

Pattern = Literal["adjacent", "half"]
Modes = tuple[int, ...]

ONE_NODE = "has no effect: a single node joins all modes"
"""What is wrong with a pattern of a tree that has just its root."""


@dataclass(frozen=True)
class ModeTree:
    """A tree whose leaves are modes, counted from 0, and whose nodes all have ``arity`` children (arXiv 2201.11729, section 4.1).

    ``leaves`` are the modes from left to right. A node has a factor [rows, columns], the columns being its parent's rows; the root's is one
    column. Factors are in the order of levels, those of leaves in the order of the modes and all others from left to right.
    """

    arity: int
    leaves: Modes

    @classmethod
    def joining(cls, order: int, arity: int, pattern: Pattern) -> ModeTree:
        """Return the tree of ``order`` modes that joins neighbours, or at each level what lies a half (of ``arity``, a part) apart.

        Raises `ValueError` unless ``order`` is a power of ``arity``.
        """
        levels = round(math.log(order, arity))
        if levels < 1 or arity**levels != order:
            raise ValueError(f"{order} is no power of {arity}")
        if pattern == "adjacent":
            return cls(arity, tuple(range(order)))
        digits = [[leaf // arity**place % arity for place in range(levels)] for leaf in range(order)]
        return cls(arity, tuple(sum(d * arity ** (levels - 1 - place) for place, d in enumerate(each)) for each in digits))

    @cached_property
    def levels(self) -> tuple[tuple[Modes, ...], ...]:
        """The modes below each node, from the leaves, in the order of their factors, to the root."""
        found: list[tuple[Modes, ...]] = [tuple((mode,) for mode in sorted(self.leaves))]
        size = self.arity
        while size <= len(self.leaves):
            found.append(tuple(self.leaves[start : start + size] for start in range(0, len(self.leaves), size)))
            size *= self.arity
        return tuple(found)

    def place(self, modes: Modes) -> tuple[int, int]:
        """Return the level of the node that joins ``modes``, in rising order, and which of that level it is."""
        return next(
            (level, number) for level, nodes in enumerate(self.levels) for number, node in enumerate(nodes) if tuple(sorted(node)) == modes
        )

    def shapes(self, shape: Sequence[int], widths: Sequence[int]) -> list[tuple[int, int]]:
        """Return the shapes of the factors, for a tensor of ``shape`` and the ``widths`` of each level above the leaves."""
        found = [(shape[mode], widths[0]) for mode in range(len(self.leaves))]
        for level, (into, out) in enumerate(zip(widths, (*widths[1:], 1), strict=True), 1):
            found += [(into, out)] * len(self.levels[level])
        return found

    def children(self, factors: Sequence[Any], level: int, node: int) -> list[Any]:
        """Return of ``factors`` those of a node's children."""
        first = sum(len(nodes) for nodes in self.levels[: level - 1])
        below = range(node * self.arity, (node + 1) * self.arity)
        return [factors[first + (self.leaves[child] if level == 1 else child)] for child in below]

    def own(self, factors: Sequence[Any], level: int, node: int) -> Any:
        """Return of ``factors`` a node's own."""
        return factors[sum(len(nodes) for nodes in self.levels[:level]) + node]

    def product(self, factors: Sequence[Any]) -> Any:
        """Return the entries [..., D] of the tensor, its modes in the order of the leaves, of factors [..., rows, columns]."""
        tables = [factors[mode] for mode in self.leaves]
        for level, nodes in enumerate(self.levels[1:-1], 1):
            joined = [khatri_rao(tables[node * self.arity : (node + 1) * self.arity]) for node in range(len(nodes))]
            tables = [rows @ self.own(factors, level, node) for node, rows in enumerate(joined)]
        middle = self.arity // 2
        left, right = khatri_rao(tables[:middle]), khatri_rao(tables[middle:])
        whole = (left * factors[-1].swapaxes(-1, -2)) @ right.swapaxes(-1, -2)
        return whole.reshape(*whole.shape[:-2], -1)

    @cached_property
    def places(self) -> Modes:
        """Where each mode is among the leaves."""
        return tuple(self.leaves.index(mode) for mode in range(len(self.leaves)))


def khatri_rao(tables: Sequence[Any]) -> Any:
    """Return the column-wise Kronecker product [..., d_1 ... d_k, C] of arrays or tensors [..., d_n, C]; the last index runs fastest."""
    out = tables[0]
    for table in tables[1:]:
        whole = out[..., :, None, :] * table[..., None, :, :]
        out = whole.reshape(*whole.shape[:-3], -1, whole.shape[-1])
    return out
