"""What training costs by each engine, in seconds: the model by which packs are made and engines chosen. No torch here: planning asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from workloads.shapes import ITEM_BYTES, lane_cost, parameter_shapes
from workloads.spec import Cp, TrialSpec


@dataclass(frozen=True)
class Rates:
    """Seconds that things take on one core.

    ``call``: a call into PyTorch; ``product``: a small matrix product in a batch; ``batched`` and ``fused``: a floating-point operation in
    float64 by either engine (float32 takes half); ``group``: a step of the smallest fused kernel; ``compile``: a fused kernel, before it
    is cached; ``autograd``: a step of the autograd engine.
    """

    call: float = 2.2e-6
    product: float = 2.4e-8
    batched: float = 4.5e-11
    fused: float = 2.2e-11
    group: float = 1.9e-8
    compile: float = 1.0
    autograd: float = 2.5e-4


DEFAULT = Rates()
"""Measured on a core that does 40 GFLOP/s in double-precision matrix products."""
CP_SLOWER = 1.6
"""How much longer an operation takes in a CP kernel, whose rows come from the second cache, than in a deep matrix's."""

WORTH_SECONDS = 0.5
"""What moving trials to another worker has to save at least."""


def engine_seconds(engine: str, specs: Sequence[TrialSpec], rates: Rates = DEFAULT, steps: Sequence[int] | None = None) -> float:
    """Seconds on one core for a pack of ``specs``, which share a `workloads.shapes.lane_key`.

    If every trial takes ``steps``, by default all that its spec allows.
    """
    spec = specs[0]
    steps = [s.stop.steps or 0 for s in specs] if steps is None else steps
    longest, total = max(steps), sum(steps)
    precision = ITEM_BYTES[spec.dtype] / 8
    if engine == "autograd":
        return total * rates.autograd
    if engine == "fused" and isinstance(spec.factorization, Cp):
        work = sum(n * _cp_flops(s, spec.factorization) for n, s in zip(steps, specs, strict=True))
        return rates.compile + work * rates.fused * CP_SLOWER * precision
    flops = lane_cost(spec).flops
    if engine == "fused":
        # A group of lanes takes as long as its longest, and a lone lane half as long as a group of eight.
        width = 8 / precision
        fullest = longest * (width / 2 if len(specs) == 1 else width)
        return rates.compile + max(total, fullest) * flops * rates.fused * precision + longest * rates.group
    factors = len(parameter_shapes(spec))
    products = 3 * max(factors - 1, 1)
    per_step = rates.call * (products + 2 * factors + 5)
    return longest * per_step + total * (products * rates.product + flops * rates.batched * precision)


def splits_well(engine: str, specs: Sequence[TrialSpec], steps: Sequence[int], rates: Rates = DEFAULT) -> bool:
    """Whether two workers would end trials of ``specs`` that have ``steps`` left noticeably sooner than one."""
    if len(specs) < 2:
        return False
    whole = engine_seconds(engine, specs, rates, steps)
    half = max(engine_seconds(engine, specs[n::2], rates, steps[n::2]) for n in range(2))
    return half < 0.8 * whole and whole - half > WORTH_SECONDS


def _cp_flops(spec: TrialSpec, factorization: Cp) -> float:
    """Operations of a walk through a tree of observed entries: at its leaves, for each fiber, and for the gradient as a whole."""
    size = math.prod(spec.shape)
    seen = spec.problem.observations() or size
    fibers = size / spec.shape[-1]
    hit = fibers * (1 - (1 - seen / size) ** spec.shape[-1])
    return factorization.terms(spec.shape) * (6 * seen + 12 * hit + 30 * sum(spec.shape))
