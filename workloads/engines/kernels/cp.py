"""The training loop of CP factorizations as a kernel that does only the work the observed entries need, components side by side in SIMD.

The observed entries of a lane are a tree, mode by mode (compressed sparse fibers: Smith and Karypis, 2015). A walk through it shares
the partial products a_i * b_j * ... of entries that begin alike, and adds up the factors' gradients on the way back. As the residual of
an entry needs no other entry, one walk gives loss and gradient. A lane is advanced until it arrives, then the next: what is in cache
is one lane, however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workloads.engines.kernels.base import KERNELS, Kernel, Layout
from workloads.engines.rates import Rates
from workloads.trial import ITEM_BYTES, TrialSpec

if TYPE_CHECKING:
    from workloads.engines.lanes import Lanes

SLOWER = 1.6
"""How much longer an operation takes than in a deep matrix's kernel: rows come from the second cache."""


class CpKernel(Kernel):
    """See `Kernel`. For completion, on CPUs."""

    def why_not(self, spec: TrialSpec, *, cuda: bool) -> str:
        if spec.problem.sensing:
            return f"it has no kernels for {spec.problem.kind} with factorization {spec.factorization.kind}"
        return "its kernels for factorization cp are for CPUs" if cuda else ""

    def seconds(self, specs: Sequence[TrialSpec], steps: Sequence[int], rates: Rates) -> float:
        work = sum(n * _flops(spec) for n, spec in zip(steps, specs, strict=True))
        return work * rates.fused * SLOWER * ITEM_BYTES[specs[0].dtype] / 8

    def layout(self, lanes: Lanes, *, threads: bool) -> Layout:  # noqa: ARG002
        from workloads.engines.kernels.trees import Trees

        return Trees(lanes)


def _flops(spec: TrialSpec) -> float:
    """Operations of a walk through a tree of observed entries: at its leaves, for each fiber, and for the gradient as a whole."""
    size = math.prod(spec.shape)
    seen = spec.problem.observations() or size
    fibers = size / spec.shape[-1]
    hit = fibers * (1 - (1 - seen / size) ** spec.shape[-1])
    return (spec.factorization.terms(spec.shape) or 1) * (6 * seen + 12 * hit + 30 * sum(spec.shape))


KERNELS["cp"] = CpKernel()
