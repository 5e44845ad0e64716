"""The step of a factorization that was traced: its graph as a flat list of operations over lanes, each into a buffer made once.

No operation mixes lanes, and none gives a lane other bits beside other lanes: sums over entries are matrix products with ones, and
matrix products have operands of their own for each lane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from workloads.factorizations.graphs.graph import Call, Graph, Map, Move, Product, Reduce, Step
from workloads.factorizations.graphs.views import View
from workloads.factorizations.programs.listed import ListedProgram
from workloads.factorizations.programs.maps import BOOLEAN, mapped
from workloads.factorizations.programs.room import room, starts_on_lines


class TracedProgram(ListedProgram):
    """See `workloads.factorizations.base.Program`."""

    def __init__(self, graph: Graph, params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor) -> None:
        super().__init__()
        self._graph, self._like = graph, outer
        # A lone lane has a double: of a single product PyTorch may make another one than of several.
        self._own, self._lanes = len(outer), max(2, len(outer))
        self._operations = self._forward
        constants = [torch.tensor(values, dtype=outer.dtype, device=outer.device) for values in graph.constants]
        given = [self._aligned(p.flatten(1)) for p in params]
        self._arrays = [*given, outer, *map(self._repeated, constants)]
        targets = {view.array: grad for view, grad in zip(graph.gradients, grads, strict=True) if view.covers(graph.sizes[view.array])}
        for place, step in enumerate(graph.steps):
            if place == graph.forward:
                self._end_forward()
            dtype = torch.bool if isinstance(step, Map) and step.name in BOOLEAN else outer.dtype
            target = targets.get(graph.made + place)
            if target is None or self._own == 1 or not starts_on_lines(target):
                target = self._room(step.shape, dtype)
            self._arrays.append(target.flatten(1) if target.dim() > 1 else target.view(-1, 1))
            self._write(step, self._arrays[-1])
        if len(graph.steps) == graph.forward:
            self._end_forward()
        for view, grad in zip(graph.gradients, grads, strict=True):
            found = self._tensor(view)
            if found.data_ptr() != grad.data_ptr():
                self._copy(found[: self._own], grad)

    def _end_forward(self) -> None:
        view = self._graph.product
        if view.covers(self._graph.sizes[view.array]):
            self.product = self._arrays[view.array][: self._own]
        else:
            whole = self._copied(self._tensor(view))
            self.product = whole.flatten(1)[: self._own]
        self._operations = self._backward
        outer = self._graph.outer
        self._arrays[outer] = self._aligned(self._arrays[outer])

    def _room(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        return room(self._lanes, shape, self._like, dtype)

    def _repeated(self, constant: Tensor) -> Tensor:
        """Return a constant for each lane: one operand for all would be another matrix product."""
        return self._room(constant.shape).copy_(constant)

    def _aligned(self, tensor: Tensor) -> Tensor:
        """Return a tensor [R, entries], or a copy that is made in each step, all lanes of which lie alike."""
        return tensor if starts_on_lines(tensor) and self._own > 1 else self._copied(tensor)

    def _copied(self, source: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        copy = self._room(source.shape[1:], source.dtype if dtype is None else dtype)
        self._copy(source, copy)
        return copy

    def _copy(self, source: Tensor, into: Tensor) -> None:
        self._operations.append(partial(into.copy_, source))

    def _digits(self, view: View) -> Tensor:
        """Return a view with an axis for each digit [R, ...]."""
        base = self._arrays[view.array]
        digits = [digit for axis in view.axes for digit in axis]
        sizes, strides = [size for size, _ in digits], [stride for _, stride in digits]
        return base.as_strided([self._lanes, *sizes], [base.stride(0), *strides], base.storage_offset() + view.offset)

    def _tensor(self, view: View) -> Tensor:
        """Return a view [R, *shape]: of the array itself, or of a copy that is made in each step."""
        digits = self._digits(view)
        if any(len(axis) > 1 for axis in view.axes):
            digits = self._copied(digits)
        return digits.view(self._lanes, *view.shape)

    def _matrices(self, view: View) -> Tensor:
        """Return a view [b, m, n] as matrices [R * b, m, n], each on lines of its own."""
        tensor = self._tensor(view)
        if tensor.shape[1] == 1:
            return tensor.squeeze(1)
        copy = room(self._lanes * tensor.shape[1], tensor.shape[2:], self._like)
        self._copy(tensor, copy.unflatten(0, tensor.shape[:2]))  # type: ignore[no-untyped-call]
        return copy

    def _write(self, step: Step, out: Tensor) -> None:
        """Add what takes a step into ``out`` [R, entries]."""
        shaped = out.view(self._lanes, *step.shape)
        match step:
            case Product(left, right):
                self._product(self._matrices(left), self._matrices(right), shaped)
            case Map():
                self._map(step, shaped)
            case Reduce(name, view, kept):
                self._reduce(name, self._tensor(view), kept, out)
            case Move():
                self._move(step, out)
            case Call():
                self._call(step, shaped)

    def _product(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Add matrix products [R * b, m, n] into ``out`` [R, b, m, n]."""
        alone = out.shape[1] == 1
        matrices = out.squeeze(1) if alone else room(len(left), out.shape[2:], self._like)
        self._operations.append(partial(torch.bmm, left, right, out=matrices))
        if not alone:
            self._copy(matrices.unflatten(0, out.shape[:2]), out)  # type: ignore[no-untyped-call]

    def _map(self, step: Map, out: Tensor) -> None:
        inputs = [
            self._tensor(value) if isinstance(value, View) else out.new_tensor(value, dtype=self._like.dtype) for value in step.inputs
        ]
        self._operations += mapped(step.name, inputs, out, self._like.dtype, lambda like, dtype: self._room(like.shape[1:], dtype))

    def _reduce(self, name: str, tensor: Tensor, kept: int, out: Tensor) -> None:
        if name != "sum":
            gone = tuple(range(1 + kept, tensor.dim()))
            self._operations.append(partial(getattr(torch, name), tensor, gone, out=out.view(self._lanes, *tensor.shape[1 : 1 + kept])))
            return
        # As a matrix product with ones: a sum over axes may add up in another order where there are other lanes.
        rows = math.prod(tensor.shape[1 : 1 + kept])
        matrices = self._copied(tensor, out.dtype).view(self._lanes, rows, -1)
        ones = self._repeated(matrices.new_ones(matrices.shape[2], 1))
        self._product(matrices, ones, out.view(self._lanes, 1, rows, 1))

    def _move(self, step: Move, out: Tensor) -> None:
        arrays = [self._arrays[view.array] for view in step.sources]
        table = torch.tensor(step.table, device=out.device)
        if step.whole:
            self._operations.append(partial(torch.gather, arrays[0], 1, table.expand(self._lanes, -1), out=out))
            return
        if step.even:
            self._add_evenly(arrays[0], table, step.even, out)
            return
        starts = [0]
        for array in arrays:
            starts.append(starts[-1] + array.shape[1])
        self._operations.append(out.zero_)
        if step.adds:
            for places in _rounds(step.table):
                index = torch.tensor(places, device=out.device)
                self._move_some(arrays[0], index, table[index], out)
            return
        for array, start, stop in zip(arrays, starts, starts[1:], strict=False):
            into = ((table >= start) & (table < stop)).nonzero().squeeze(1)
            self._move_some(array, table[into] - start, into, out)

    def _add_evenly(self, array: Tensor, table: Tensor, count: int, out: Tensor) -> None:
        """Add sums of so many entries each: those of each place side by side, times ones."""
        source = table.sort(stable=True).indices
        picked = self._room(source.shape)
        self._operations.append(partial(torch.gather, array, 1, source.expand(self._lanes, -1), out=picked))
        ones = self._repeated(picked.new_ones(count, 1))
        matrices = picked.unflatten(1, (-1, count))  # type: ignore[no-untyped-call]
        self._product(matrices, ones, out.view(self._lanes, 1, -1, 1))

    def _move_some(self, array: Tensor, source: Tensor, into: Tensor, out: Tensor) -> None:
        picked = self._room(source.shape)
        self._operations.append(partial(torch.gather, array, 1, source.expand(self._lanes, -1), out=picked))
        self._operations.append(partial(out.scatter_add_, 1, into.expand(self._lanes, -1), picked))

    def _call(self, step: Call, out: Tensor) -> None:
        tensors = [self._tensor(view) for view in step.operands]

        def once(*operands: Tensor) -> Tensor:
            given = iter(operands)
            return step.operation(*_filled(step.arguments, given), **{key: _filled(value, given) for key, value in step.keywords})  # type: ignore[no-any-return]

        self._operations.append(lambda: out.copy_(torch.vmap(once)(*tensors)))


def _filled(value: Any, given: Any) -> Any:
    """Return ``value`` with the tensors that are ``given`` in the places of views."""
    if isinstance(value, View):
        return next(given)
    return [_filled(part, given) for part in value] if isinstance(value, tuple) else value


def _rounds(table: Sequence[int]) -> list[list[int]]:
    """Return the places of a table in rounds, none of which has the same number twice: added one after another, in one order."""
    seen: dict[int, int] = {}
    out: list[list[int]] = []
    for place, number in enumerate(table):
        nth = seen.get(number, 0)
        seen[number] = nth + 1
        if nth == len(out):
            out.append([])
        out[nth].append(place)
    return out
