"""The training loop of factorizations of which only the product of one run is known, as a kernel written from its graph.

As with deep matrices every number is a ``vec`` over the lanes of a group. What is small is straight-line code, the rest loops over a
workspace in cache, its matrix products cut into register tiles. Of what is too large for a group's cache lanes go one after another,
and vectors lie along the rows of their arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workloads.engines.kernels.base import KERNELS, Kernel, Layout
from workloads.engines.kernels.deep_matrix import MEASUREMENT_ENTRIES, DeepMatrixKernel, group_seconds
from workloads.engines.kernels.functions import KNOWN
from workloads.engines.kernels.source import SIMD_BYTES
from workloads.engines.kernels.traced_key import GROUP_BYTES
from workloads.engines.rates import Rates
from workloads.factorizations.graphs.facts import facts_of
from workloads.factorizations.graphs.graph import ROW
from workloads.trial import ITEM_BYTES, TrialSpec, lane_cost

if TYPE_CHECKING:
    from workloads.engines.lanes import Lanes


LARGEST = 1 << 17
"""Most numbers of a lane for which kernels win over batched matrix products: a group's are to stay in cache."""
LARGEST_IN_ROWS = 1 << 21
"""The same where a lane has long rows and a core to itself."""
ALONE = 112
"""From which dimension on a deep matrix is one of those: its lanes side by side leave the cache."""
MOST_FACTORS = 50
"""Most factors of such a matrix: its graph has seven steps for each."""
LONGEST = 400
"""Most steps of a graph that are worth a kernel: each is code that has to be compiled."""


class TracedKernel(Kernel):
    """See `Kernel`. For completion and sensing, on CPUs and GPUs."""

    def why_not(self, spec: TrialSpec, *, cuda: bool) -> str:
        facts = facts_of(spec.factorization, spec.shape, spec.dtype)
        if facts.why:
            return f"factorization {spec.factorization.kind} has no graph: {facts.why}"
        if unknown := [*facts.unknown, *sorted({*facts.functions} - KNOWN)]:
            return f"its kernels do not know {' and '.join(unknown)}, which factorization {spec.factorization.kind} uses"
        if not facts.finite:
            return f"factorization {spec.factorization.kind} has constants that are not finite"
        if facts.steps > LONGEST:
            return f"its kernels are for graphs of up to {LONGEST} steps, and factorization {spec.factorization.kind} has {facts.steps}"
        return self._too_large(spec, cuda=cuda)

    def _lane(self, spec: TrialSpec) -> tuple[int, bool]:
        """Return how many numbers a lane has, and whether it has long rows (`workloads.factorizations.graphs.graph.Graph.in_rows`)."""
        facts = facts_of(spec.factorization, spec.shape, spec.dtype)
        return facts.numbers, facts.in_rows

    def _too_large(self, spec: TrialSpec, *, cuda: bool) -> str:
        """Return why a lane is too large; empty where it is not."""
        numbers, in_rows = self._lane(spec)
        most = LARGEST_IN_ROWS if in_rows and not cuda else LARGEST
        if numbers > most:
            return f"its kernels are for up to {most:,} numbers a lane"
        if spec.problem.measurement_entries(spec.problem.observations() or 0) > MEASUREMENT_ENTRIES:
            return f"its kernels are for sensing operators of up to {MEASUREMENT_ENTRIES:,} entries"
        return ""

    def seconds(self, specs: Sequence[TrialSpec], steps: Sequence[int], rates: Rates) -> float:
        spec, flops = specs[0], lane_cost(specs[0]).flops
        numbers, in_rows = self._lane(spec)
        if in_rows and not rates.latency and numbers * SIMD_BYTES > GROUP_BYTES:
            # Lanes go one after another.
            return sum(steps) * flops * rates.fused * ITEM_BYTES[spec.dtype] / 8
        return group_seconds(flops, specs, steps, rates)

    def layout(self, lanes: Lanes, *, threads: bool) -> Layout:
        from workloads.engines.kernels.course import options_of
        from workloads.engines.kernels.groups import Groups
        from workloads.engines.kernels.losses import loss_of
        from workloads.engines.kernels.traced_key import cpu_key
        from workloads.engines.kernels.traced_source import traced_body
        from workloads.factorizations.graphs.known import graph_of

        spec = lanes.spec
        graph = graph_of(spec.factorization, list(spec.factor_shapes.values()), lanes.dtype)
        assert not isinstance(graph, str), "asked of what has a graph"
        measurements = lanes.observations.width if spec.problem.sensing else 0
        key = cpu_key(graph, measurements, spec.method.kind, spec.dtype, options_of(lanes), loss_of(lanes))
        return Groups(lanes, threads, key, traced_body)


class KnownKernel(TracedKernel):
    """Of a kind of ours that has a hand-written step for `batched`: its graph is known to have a kernel, and no plan traces it."""

    def why_not(self, spec: TrialSpec, *, cuda: bool) -> str:
        return self._too_large(spec, cuda=cuda)

    def _lane(self, spec: TrialSpec) -> tuple[int, bool]:
        shapes = spec.factor_shapes.values()
        numbers = sum(map(math.prod, shapes)) + spec.factorization.cost(spec.shape).buffers
        return numbers, min((shape[-1] for shape in shapes if shape[-1] > 1), default=0) >= ROW


class BySize(Kernel):
    """A kernel for lanes ``side_by_side``, and the one from the graph for those of dimensions that it is not for."""

    def __init__(self, side_by_side: Kernel) -> None:
        self._small, self._large = side_by_side, KnownKernel()

    def _of(self, spec: TrialSpec, *, cuda: bool) -> Kernel:
        shapes = spec.factor_shapes.values()
        sizes = [size for shape in shapes for size in shape]
        alone = max(sizes) >= ALONE and min(sizes) >= ROW and len(shapes) <= MOST_FACTORS
        return self._large if alone and not cuda else self._small

    def why_not(self, spec: TrialSpec, *, cuda: bool) -> str:
        return self._of(spec, cuda=cuda).why_not(spec, cuda=cuda)

    def seconds(self, specs: Sequence[TrialSpec], steps: Sequence[int], rates: Rates) -> float:
        return self._of(specs[0], cuda=bool(rates.latency)).seconds(specs, steps, rates)

    def layout(self, lanes: Lanes, *, threads: bool) -> Layout:
        return self._of(lanes.spec, cuda=threads).layout(lanes, threads=threads)


TRACED = TracedKernel()
KERNELS["hierarchical"] = KnownKernel()
KERNELS["deep_matrix"] = BySize(DeepMatrixKernel())
