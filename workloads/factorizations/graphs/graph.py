"""The graph of a factorization: the product of one run's factors and its gradient, as steps on flat arrays. No torch here: planning asks.

Arrays are numbered: the factors, then dL/dW, then constants, then what each step makes, which is contiguous.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from workloads.factorizations.graphs.views import View

ROW = 16
"""Entries that rows have at least to be worth vectors."""
LONG_ROWS = 0.9
"""Part of the arithmetic of matrix products that has to be in such rows."""


@dataclass(frozen=True)
class Product:
    """Matrix products [b, m, n] of ``left`` [b, m, k] and ``right`` [b, k, n]."""

    left: View
    right: View

    @property
    def operands(self) -> tuple[View, ...]:
        """What is read."""
        return self.left, self.right

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is made."""
        return (*self.left.shape[:2], self.right.shape[2])

    @property
    def row(self) -> int:
        """Entries of what is made that lie side by side and belong to one row, by the digits of ``right``."""
        return self.right.axes[2][-1][0] if self.right.axes[2] else 1

    @property
    def flops(self) -> int:
        """Operations it takes."""
        return 2 * self.left.size * self.right.shape[2]


@dataclass(frozen=True)
class Map:
    """An elementwise function ``name`` of views of one shape and of numbers."""

    name: str
    inputs: tuple[View | float, ...]

    @property
    def operands(self) -> tuple[View, ...]:
        """What is read."""
        return tuple(view for view in self.inputs if isinstance(view, View))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is made."""
        return self.operands[0].shape

    @property
    def flops(self) -> int:
        """Operations it takes: functions count as what they take beside a multiplication."""
        return math.prod(self.shape) * (30 if self.name in TRANSCENDENTAL else 2)


@dataclass(frozen=True)
class Reduce:
    """The ``name`` (``sum``, ``amax``, ``amin``) of ``view`` over all but its first ``kept`` axes."""

    name: str
    view: View
    kept: int

    @property
    def operands(self) -> tuple[View, ...]:
        """What is read."""
        return (self.view,)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is made."""
        return self.view.shape[: self.kept]

    @property
    def flops(self) -> int:
        """Operations it takes."""
        return 2 * self.view.size


@dataclass(frozen=True)
class Move:
    """Entries of ``sources``, whole arrays one after another, by their places in ``table``; -1 is zero. ``adds``: the other way round,
    entry n is added at ``table[n]`` of ``size`` zeros."""

    sources: tuple[View, ...]
    table: tuple[int, ...]
    size: int
    adds: bool = False

    @property
    def operands(self) -> tuple[View, ...]:
        """What is read."""
        return self.sources

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is made."""
        return (self.size,)

    @property
    def flops(self) -> int:
        """Operations it takes."""
        return 2 * len(self.table)

    @property
    def whole(self) -> bool:
        """True where all entries are of one source."""
        return not self.adds and len(self.sources) == 1 and min(self.table, default=0) >= 0

    @property
    def even(self) -> int:
        """How many entries are added at each place; 0 where it is not the same number at all of them."""
        counts = {*Counter(self.table).values()} if self.adds and len({*self.table}) == self.size else set()
        return counts.pop() if len(counts) == 1 else 0

    @property
    def numbers(self) -> int:
        """Numbers held beside what is made."""
        return 0 if self.whole else len(self.table) + self.even


@dataclass(frozen=True)
class Call:
    """What is none of the others: an operation of PyTorch, of ``arguments`` in which views stand for tensors. No kernel knows it."""

    operation: Any
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]
    operands: tuple[View, ...]
    shape: tuple[int, ...]

    @property
    def flops(self) -> int:
        """Operations it takes: nobody knows."""
        return 10 * sum(view.size for view in self.operands)


Step = Product | Map | Reduce | Move | Call
TRANSCENDENTAL = frozenset(
    {"exp", "log", "log1p", "expm1", "sin", "cos", "tan", "tanh", "sigmoid", "pow", "erf", "sinh", "cosh", "atan", "asin", "acos"}
)


@dataclass(frozen=True)
class Graph:
    """``parameters`` are the factors' shapes, ``shape`` that of the product, ``constants`` [entries] each.

    The first ``forward`` of ``steps`` lead to ``product``, the rest to ``gradients``, views of the factors' shapes.
    """

    parameters: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]
    constants: tuple[tuple[float, ...], ...]
    steps: tuple[Step, ...]
    forward: int
    product: View
    gradients: tuple[View, ...]
    _hash: list[int] = field(default_factory=list, compare=False, repr=False)

    def __hash__(self) -> int:
        if not self._hash:
            self._hash.append(hash((self.parameters, self.shape, self.constants, self.steps, self.product, self.gradients)))
        return self._hash[0]

    @property
    def outer(self) -> int:
        """The number of the array that is dL/dW."""
        return len(self.parameters)

    @property
    def made(self) -> int:
        """The number of the array that the first step makes."""
        return len(self.parameters) + 1 + len(self.constants)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Entries of each array."""
        given = [*map(math.prod, self.parameters), math.prod(self.shape), *map(len, self.constants)]
        return (*given, *(math.prod(step.shape) for step in self.steps))

    @property
    def flops(self) -> int:
        """Operations of a step of training, but for the residual and the update."""
        return sum(step.flops for step in self.steps)

    @property
    def in_rows(self) -> bool:
        """True where matrix products are most of the arithmetic, and nearly all of these make rows of at least `ROW` entries."""
        products = [step for step in self.steps if isinstance(step, Product)]
        long = sum(step.flops for step in products if step.row >= ROW)
        return 2 * long >= self.flops and long >= LONG_ROWS * sum(step.flops for step in products)

    @property
    def calls(self) -> tuple[str, ...]:
        """Operations that no kernel knows."""
        return tuple(dict.fromkeys(str(step.operation) for step in self.steps if isinstance(step, Call)))
