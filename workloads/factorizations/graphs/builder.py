"""Steps as they are found: from operations on views to steps on flat arrays, each made once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from workloads.factorizations.graphs.graph import Map, Move, Product, Reduce, Step
from workloads.factorizations.graphs.views import View, refined

Value = View | Tensor | float
"""What a node of a trace stands for: entries that depend on the factors, a constant, or a number."""


class Untraceable(Exception):
    """Why a factorization has no graph."""


class Builder:
    """The steps so far. Constants are arrays as soon as a step reads them."""

    def __init__(self, sizes: Sequence[int], dtype: torch.dtype) -> None:
        self.given, self.dtype, self._sizes = len(sizes), dtype, tuple(sizes)
        self.constants: list[tuple[float, ...]] = []
        self.steps: list[Step] = []
        self._known: dict[Step, View] = {}

    def add(self, step: Step) -> View:
        """Return what ``step`` makes; the same for the same step. Constants are numbered from -1 downwards until all are known."""
        if step not in self._known:
            self.steps.append(step)
            self._known[step] = View.whole(self.given + len(self.steps) - 1, step.shape)
        return self._known[step]

    def view(self, value: Value, shape: Sequence[int] | None = None) -> View:
        """Return a value as a view, repeated to ``shape`` where that is given."""
        if not isinstance(value, View):
            tensor = torch.as_tensor(value)
            entries = tuple(tensor.to(self.dtype).flatten().tolist())
            if entries not in self.constants:
                self.constants.append(entries)
            value = View.whole(-1 - self.constants.index(entries), tensor.shape)
        return value if shape is None else value.expanded(shape)

    def copied(self, view: View) -> View:
        """Return the same entries, one after another."""
        return self.add(Map("copy", (view,)))

    def reshaped(self, view: View, shape: Sequence[int]) -> View:
        """Return the same entries in another shape, copied where they have to be."""
        sizes = list(shape)
        if -1 in sizes:
            rest = math.prod(n for n in sizes if n != -1)
            sizes[sizes.index(-1)] = view.size // max(1, rest)
        found = view.reshaped(sizes)
        if found is None:
            found = self.copied(view).reshaped(sizes)
        assert found is not None, "what is contiguous has any shape"
        return found

    def product(self, left: View, right: View) -> View:
        """Return the matrix products [b, m, n] of [b, m, k] and [b, k, n]."""
        while True:
            whole = View.whole(0, (*left.shape[:2], right.shape[2]))
            axes = [(left.axes[0], right.axes[0], whole.axes[0]), (left.axes[1], whole.axes[1]), (left.axes[2], right.axes[1])]
            if all(refined(one) is not None for one in [*axes, (right.axes[2], whole.axes[2])]):
                return self.add(Product(left, right))
            left, right = self.copied(left), self.copied(right)

    def map(self, name: str, *inputs: Value) -> View:
        """Return an elementwise function of values that are repeated to one shape."""
        shape = torch.broadcast_shapes(*(v.shape if isinstance(v, View | Tensor) else () for v in inputs))  # type: ignore[no-untyped-call]
        given = [v if isinstance(v, float) else _number(v) for v in inputs]
        views: list[View | float] = [self.view(v, shape) if isinstance(v, View | Tensor) else float(v) for v in given]
        some = [v for v in views if isinstance(v, View)]
        for axis in range(len(shape)):
            if refined([v.axes[axis] for v in some]) is None:
                return self.map(name, *(self.copied(v) if isinstance(v, View) else v for v in views))
        return self.add(Map(name, tuple(views)))

    def reduce(self, name: str, view: View, dims: Sequence[int], keep: bool) -> View:
        """Return the ``name`` of ``view`` over ``dims``, all where there are none."""
        order = len(view.axes)
        gone = sorted({d % order for d in dims}) if dims else list(range(order))
        kept = [n for n in range(order) if n not in gone]
        out = self.add(Reduce(name, view.permuted([*kept, *gone]), len(kept)))
        return self.reshaped(out, [1 if n in gone else view.shape[n] for n in range(order)]) if keep else out

    def move(self, sources: Sequence[Value], table: Tensor, *, size: int | None = None) -> View:
        """Return the entries of ``sources``, one after another, at the places that ``table`` tells, -1 for zero; or, with ``size``,
        a source's entries added at those places of as many zeros."""
        views = []
        for source in map(self.view, sources):
            whole = source if source.covers(self.size(source.array)) else self.copied(source)
            views.append(View.whole(whole.array, (source.size,)))
        flat = tuple(int(n) for n in table.flatten().tolist())
        if len(views) == 1 and size is None and flat == tuple(range(views[0].size)):
            return self.reshaped(views[0], table.shape)
        out = self.add(Move(tuple(views), flat, len(flat) if size is None else size, adds=size is not None))
        return self.reshaped(out, table.shape) if size is None else out

    def size(self, array: int) -> int:
        """Return the entries of an array."""
        if array < 0:
            return len(self.constants[-1 - array])
        return self._sizes[array] if array < self.given else math.prod(self.steps[array - self.given].shape)


def _number(value: Value) -> Value:
    """Return a constant that is one number everywhere as that number, if it needs no shape of its own."""
    if isinstance(value, Tensor) and value.numel() == 1 and value.dim() == 0:
        return float(value)
    return value
