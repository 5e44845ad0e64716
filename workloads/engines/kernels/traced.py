"""The training loop of factorizations of which only the product of one run is known, as a kernel written from its graph.

As with deep matrices every number is a ``vec`` over the lanes of a group. What is small is straight-line code, the rest loops over a
workspace in cache, its matrix products cut into register tiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workloads.engines.kernels.base import KERNELS, Kernel, Layout
from workloads.engines.kernels.deep_matrix import MEASUREMENT_ENTRIES, group_seconds
from workloads.engines.kernels.functions import KNOWN
from workloads.engines.rates import Rates
from workloads.factorizations.graphs.facts import facts_of
from workloads.trial import TrialSpec, lane_cost

if TYPE_CHECKING:
    from workloads.engines.lanes import Lanes


LARGEST = 1 << 17
"""Most numbers of a lane for which kernels win over batched matrix products: a group's are to stay in cache."""
LONGEST = 400
"""Most steps of a graph that are worth a kernel: each is code that has to be compiled."""


class TracedKernel(Kernel):
    """See `Kernel`. For completion and sensing, on CPUs and GPUs."""

    def why_not(self, spec: TrialSpec, *, cuda: bool) -> str:  # noqa: ARG002
        facts = facts_of(spec.factorization, spec.shape, spec.dtype)
        if facts.why:
            return f"factorization {spec.factorization.kind} has no graph: {facts.why}"
        if unknown := [*facts.unknown, *sorted({*facts.functions} - KNOWN)]:
            return f"its kernels do not know {' and '.join(unknown)}, which factorization {spec.factorization.kind} uses"
        if not facts.finite:
            return f"factorization {spec.factorization.kind} has constants that are not finite"
        if facts.steps > LONGEST:
            return f"its kernels are for graphs of up to {LONGEST} steps, and factorization {spec.factorization.kind} has {facts.steps}"
        return self._too_large(spec, facts.numbers)

    def _too_large(self, spec: TrialSpec, numbers: int) -> str:
        """Return why a lane of so many ``numbers`` is too large; empty where it is not."""
        if numbers > LARGEST:
            return f"its kernels are for up to {LARGEST:,} numbers a lane"
        if spec.problem.measurement_entries(spec.problem.observations() or 0) > MEASUREMENT_ENTRIES:
            return f"its kernels are for sensing operators of up to {MEASUREMENT_ENTRIES:,} entries"
        return ""

    def seconds(self, specs: Sequence[TrialSpec], steps: Sequence[int], rates: Rates) -> float:
        return group_seconds(lane_cost(specs[0]).flops, specs, steps, rates)

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

    def why_not(self, spec: TrialSpec, *, cuda: bool) -> str:  # noqa: ARG002
        parameters = sum(map(math.prod, spec.factor_shapes.values()))
        return self._too_large(spec, parameters + spec.factorization.cost(spec.shape).buffers)


TRACED = TracedKernel()
KERNELS["hierarchical"] = KnownKernel()
