"""What training costs by each engine, in seconds: the model by which packs are made and engines chosen. No torch here: planning asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from workloads.shapes import ITEM_BYTES, lane_cost, parameter_shapes
from workloads.spec import Cp, TrialSpec


@dataclass(frozen=True)
class Rates:
    """Seconds that things take on one core, or on a GPU.

    ``call``: a call into PyTorch; ``product``: a small matrix product in a batch; ``batched`` and ``fused``: a floating-point operation in
    float64 by either engine (float32 takes half); ``group``: a step of the smallest fused kernel; ``latency``: an operation in a lane that
    has a thread of a GPU to itself, 0 on a core; ``compile``: a fused kernel, before it is cached; ``autograd``: a step of the autograd
    engine. ``source`` says where the numbers come from.
    """

    call: float
    product: float
    batched: float
    fused: float
    group: float
    latency: float
    compile: float
    autograd: float
    source: str


CORE = Rates(2.2e-6, 2.4e-8, 4.5e-11, 2.2e-11, 1.9e-8, 0.0, 1.0, 2.5e-4, "assumed: a core of 40 GFLOP/s, none was measured here yet")
GPU = Rates(2.5e-6, 2e-10, 2e-13, 4e-13, 0.0, 2e-9, 3.0, 6e-4, "assumed: a data-center GPU, none was measured here yet")
DEFAULTS = {"cpu": CORE, "cuda": GPU}
CP_SLOWER = 1.6
"""How much longer an operation takes in a CP kernel, whose rows come from the second cache, than in a deep matrix's."""
SOLVER_STEPS = 1000
"""Steps after which a convex problem is taken to be solved."""
WORTH_SECONDS = 0.5
"""What moving trials to another worker has to save at least."""


def engine_seconds(engine: str, specs: Sequence[TrialSpec], rates: Rates = CORE, steps: Sequence[int] | None = None) -> float:
    """Seconds for a pack of ``specs``, which share a `workloads.shapes.lane_key`, the compilation of a kernel included.

    If every trial takes ``steps``, by default all that its spec allows.
    """
    taken = [s.stop.steps or 0 for s in specs] if steps is None else steps
    return _seconds(engine, specs, taken, rates) + (rates.compile if engine == "fused" else 0.0)


def step_seconds(engine: str, specs: Sequence[TrialSpec], rates: Rates) -> float:
    """Seconds for one step of all ``specs``."""
    return _seconds(engine, specs, [1] * len(specs), rates)


def _seconds(engine: str, specs: Sequence[TrialSpec], steps: Sequence[int], rates: Rates) -> float:
    spec = specs[0]
    longest, total = max(steps), sum(steps)
    precision = ITEM_BYTES[spec.dtype] / 8
    if engine == "autograd":
        return total * rates.autograd
    if engine == "convex":
        # Decompositions run at a third of the rate of products, and hardly any problem takes more steps.
        iterations = sum(min(n, SOLVER_STEPS) for n in steps)
        return min(longest, SOLVER_STEPS) * 30 * rates.call + 3 * iterations * lane_cost(spec).flops * rates.batched
    if engine == "fused" and isinstance(spec.factorization, Cp):
        work = sum(n * _cp_flops(s, spec.factorization) for n, s in zip(steps, specs, strict=True))
        return work * rates.fused * CP_SLOWER * precision
    flops = lane_cost(spec).flops
    if engine == "fused" and rates.latency:
        return max(longest * flops * rates.latency, total * flops * rates.fused * precision)
    if engine == "fused":
        # A group of lanes takes as long as its longest, and a lone lane half as long as a group of eight.
        width = 8 / precision
        fullest = longest * (width / 2 if len(specs) == 1 else width)
        return max(total, fullest) * flops * rates.fused * precision + longest * rates.group
    factors = len(parameter_shapes(spec))
    products = 3 * max(factors - 1, 1)
    per_step = rates.call * (products + 2 * factors + 5)
    return longest * per_step + total * (products * rates.product + flops * rates.batched * precision)


def splits_well(engine: str, specs: Sequence[TrialSpec], steps: Sequence[int], rates: Rates = CORE) -> bool:
    """Whether two workers would end trials of ``specs`` that have ``steps`` left noticeably sooner than one."""
    if len(specs) < 2:
        return False
    whole = _seconds(engine, specs, steps, rates)
    half = max(_seconds(engine, specs[n::2], steps[n::2], rates) for n in range(2))
    return half < 0.8 * whole and whole - half > WORTH_SECONDS


def _cp_flops(spec: TrialSpec, factorization: Cp) -> float:
    """Operations of a walk through a tree of observed entries: at its leaves, for each fiber, and for the gradient as a whole."""
    size = math.prod(spec.shape)
    seen = spec.problem.observations() or size
    fibers = size / spec.shape[-1]
    hit = fibers * (1 - (1 - seen / size) ** spec.shape[-1])
    return factorization.terms(spec.shape) * (6 * seen + 12 * hit + 30 * sum(spec.shape))
