"""The training loop of deep matrix factorizations as a kernel, lanes side by side in SIMD registers.

Every number is a ``vec`` over V lanes, so that no lane touches another. The smallest factorizations are straight-line code whose values
stay in registers; the others are loops over a workspace in cache, their matrix products cut into register tiles. A group of V lanes
is advanced until one of them arrives (`workloads.engines.base.Engine`); the loss is checked at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workloads.engines.kernels.base import Kernel, Layout
from workloads.engines.rates import Rates
from workloads.trial import ITEM_BYTES, TrialSpec, lane_cost

if TYPE_CHECKING:
    from workloads.engines.lanes import Lanes

LARGEST = 128
"""Largest dimension for which kernels win over batched matrix products: a group's matrices stay in cache."""
MEASUREMENT_ENTRIES = 1 << 13
"""Largest sensing operator, in entries a lane, that kernels keep in cache."""


def group_seconds(flops: int, specs: Sequence[TrialSpec], steps: Sequence[int], rates: Rates) -> float:
    """Return the seconds that lanes, in groups, take for so many ``steps`` each of ``flops`` operations."""
    longest, total = max(steps), sum(steps)
    precision = ITEM_BYTES[specs[0].dtype] / 8
    if rates.latency:
        return max(longest * flops * rates.latency, total * flops * rates.fused * precision)
    # A group of lanes takes as long as its longest, and a lone lane half as long as a group of eight.
    width = 8 / precision
    fullest = longest * (width / 2 if len(specs) == 1 else width)
    return max(total, fullest) * flops * rates.fused * precision + longest * rates.group


class DeepMatrixKernel(Kernel):
    """See `Kernel`. For completion and sensing, on CPUs and GPUs."""

    def why_not(self, spec: TrialSpec, *, cuda: bool) -> str:  # noqa: ARG002
        if max(max(shape) for shape in spec.factor_shapes.values()) > LARGEST:
            return f"its kernels are for dimensions up to {LARGEST}"
        if spec.problem.measurement_entries(spec.problem.observations() or 0) > MEASUREMENT_ENTRIES:
            return f"its kernels are for sensing operators of up to {MEASUREMENT_ENTRIES:,} entries"
        return ""

    def seconds(self, specs: Sequence[TrialSpec], steps: Sequence[int], rates: Rates) -> float:
        return group_seconds(lane_cost(specs[0]).flops, specs, steps, rates)

    def layout(self, lanes: Lanes, *, threads: bool) -> Layout:
        from workloads.engines.kernels.course import options_of
        from workloads.engines.kernels.deep_matrix_key import cpu_key
        from workloads.engines.kernels.deep_matrix_source import deep_matrix_body
        from workloads.engines.kernels.groups import Groups
        from workloads.engines.kernels.losses import loss_of

        spec = lanes.spec
        measurements = lanes.observations.width if spec.problem.sensing else 0
        shapes = tuple((s[0], s[1]) for s in spec.factor_shapes.values())
        key = cpu_key(shapes, measurements, spec.method.kind, spec.dtype, options_of(lanes), loss_of(lanes))
        return Groups(lanes, threads, key, deep_matrix_body)
