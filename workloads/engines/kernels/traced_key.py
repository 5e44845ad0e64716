"""What a kernel of a traced factorization is generated for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from workloads.engines.kernels.options import PLAIN, Options
from workloads.engines.kernels.source import SIMD_BYTES, registers
from workloads.engines.kernels.updates import Update
from workloads.engines.pointwise import Pointwise
from workloads.factorizations.graphs.graph import Graph, Product
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
def places(graph: Graph) -> tuple[dict[int, int], int]:
    """Return where in the workspace each array lies that is in it, and how many entries that takes.

    An array's room is another's once nobody reads it any more. dL/dW, the product and the gradients stay to the end.
    """
    last = {view.array: graph.made + n for n, step in enumerate(graph.steps) for view in step.operands}
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
    for n, step in enumerate(graph.steps):
        array = graph.made + n
        found[array] = room(graph.sizes[array])
        done = {read for read in (view.array for view in step.operands) if read >= graph.made and last[read] == array} - kept
        free += [(found[read], graph.sizes[read]) for read in sorted(done)]
    return found, end
