"""What a kernel of a traced factorization is generated for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from workloads.engines.kernels.options import PLAIN, Options
from workloads.engines.kernels.source import SIMD_BYTES, registers
from workloads.engines.kernels.updates import Update
from workloads.engines.pointwise import Pointwise
from workloads.factorizations.graphs.graph import Graph, Map, Product
from workloads.factorizations.graphs.views import View, refined
from workloads.trial import ITEM_BYTES

STRAIGHT_FLOPS = 600
"""Up to this many operations a step a kernel is straight-line code."""
GROUP_BYTES = 1 << 21
"""What a group of lanes that have long rows may take: where a core's own cache has no room for more, lanes by themselves win."""
PANEL = 6
"""Most vectors of a row of a panel."""


@dataclass(frozen=True)
class TracedKey:
    """See `workloads.engines.kernels.grouped_source.GroupKey`: of a ``graph``, as ``straight``-line code or in loops.

    ``rows``: a lane is by itself, and vectors of so many numbers lie along the rows of its arrays; 0 where lanes lie side by side.
    """

    graph: Graph
    measurements: int
    optimizer: str
    dtype: str
    lanes: int
    straight: bool
    threads: bool = False
    registers: int = 32
    options: Options = PLAIN
    loss: Pointwise | None = None
    shared: bool = False
    rows: int = 0

    @property
    def size(self) -> int:
        """Entries of the product."""
        return math.prod(self.graph.shape)

    @property
    def parameters(self) -> int:
        """Entries of all factors."""
        return sum(map(math.prod, self.graph.parameters))

    @property
    def update(self) -> Update:
        """The optimizer's step."""
        return Update.of(self.optimizer, self.options)

    @property
    def state(self) -> int:
        """Entries of optimizer state."""
        return len(self.update.arrays) * self.parameters + len(self.update.numbers)

    @property
    def workspace(self) -> int:
        """Entries of scratch memory that a group needs."""
        room = self.options.room(self.measurements or self.size, self.dtype, threads=self.threads)
        return room if self.straight else self.panel + places(self.graph)[1] + self.measurements + room

    @property
    def panel(self) -> int:
        """Entries of the largest part of an operand that is laid out anew (`workloads.engines.kernels.traced_rows`)."""
        deepest = max((step.left.shape[2] for step in self.graph.steps if isinstance(step, Product)), default=0)
        return deepest * PANEL * self.rows


def cpu_key(
    graph: Graph, measurements: int, optimizer: str, dtype: str, options: Options = PLAIN, loss: Pointwise | None = None
) -> TracedKey:
    """Return the key for groups of lanes on this machine's CPU."""
    there = registers()
    straight = graph.flops + 4 * measurements * math.prod(graph.shape) <= STRAIGHT_FLOPS
    # In straight-line code chains of products wait for each other: with two registers a vector there are two chains.
    wide = min(SIMD_BYTES, 2 * there.bytes) if straight else there.bytes
    lanes = wide // ITEM_BYTES[dtype]
    key = TracedKey(graph, measurements, optimizer, dtype, lanes, straight, registers=there.count, options=options, loss=loss)
    if straight or not graph.in_rows or (key.parameters + key.state + key.workspace) * SIMD_BYTES <= GROUP_BYTES:
        return key
    return replace(key, lanes=1, rows=lanes)


@lru_cache(maxsize=256)
def runs(graph: Graph) -> tuple[range, ...]:
    """Return which steps are taken together: neighbouring functions of numbers that read each other's entries at the same places."""
    found: list[range] = []
    for n in range(len(graph.steps)):
        longer = range(found[-1].start, n + 1) if found and n != graph.forward else range(n, n + 1)
        if len(longer) > 1 and _together(graph, longer):
            found[-1] = longer
        else:
            found.append(range(n, n + 1))
    return tuple(found)


def _together(graph: Graph, run: range) -> bool:
    steps = [graph.steps[n] for n in run]
    made, size = range(graph.made + run.start, graph.made + run.stop), math.prod(steps[0].shape)
    if not all(isinstance(step, Map) and step.shape == steps[0].shape for step in steps):
        return False
    views = [view for step in steps for view in step.operands]
    if not all(view.covers(size) for view in views if view.array in made):
        return False
    return refined([tuple(digit for axis in view.axes for digit in axis) for view in [View.whole(0, steps[0].shape), *views]]) is not None


@lru_cache(maxsize=256)
def places(graph: Graph) -> tuple[dict[int, int], int]:
    """Return where in the workspace each array lies that is in it, and how many entries that takes.

    An array's room is another's once nobody reads it any more; what is read in its own run alone has none. dL/dW, the product and the
    gradients stay to the end.
    """
    made = [[graph.made + n for n in run] for run in runs(graph)]
    last = {view.array: place for place, run in enumerate(runs(graph)) for n in run for view in graph.steps[n].operands}
    kept = {graph.outer, graph.product.array, *(view.array for view in graph.gradients)}
    found: dict[int, int] = {}
    free: list[tuple[int, int]] = []
    end = 0

    def room(size: int) -> int:
        nonlocal end
        for n, (start, length) in enumerate(free):
            if length >= size:
                free[n] = (start + size, length - size)
                return start
        end += size
        return end - size

    found[graph.outer] = room(graph.sizes[graph.outer])
    for place, arrays in enumerate(made):
        for array in arrays:
            if array in kept or last.get(array) != place:
                found[array] = room(graph.sizes[array])
        done = sorted(read for read in found if last.get(read) == place and read not in kept)
        free += [(found[read], graph.sizes[read]) for read in done]
    return found, end
