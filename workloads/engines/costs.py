"""What training costs by each engine, in seconds: the model by which packs are made and engines chosen. No torch here: planning asks."""

from __future__ import annotations

from collections.abc import Sequence

from workloads.engines.kernels import kernel_of
from workloads.engines.rates import CORE, Rates
from workloads.trial import ITEM_BYTES, TrialSpec, lane_cost

SOLVER_STEPS = 1000
"""Steps after which a convex problem is taken to be solved."""
WORTH_SECONDS = 0.5
"""What moving trials to another worker has to save at least."""


def engine_seconds(engine: str, specs: Sequence[TrialSpec], rates: Rates = CORE, steps: Sequence[int] | None = None) -> float:
    """Return the seconds for a pack of ``specs``, which share a `workloads.trial.TrialSpec.lane_key`, the compilation of a kernel included.

    If every trial takes ``steps``, by default all that its spec allows.
    """
    taken = [s.stop.steps or 0 for s in specs] if steps is None else steps
    return _seconds(engine, specs, taken, rates) + (rates.compile if engine == "fused" else 0.0)


def step_seconds(engine: str, specs: Sequence[TrialSpec], rates: Rates) -> float:
    """Return the seconds for one step of all ``specs``."""
    return _seconds(engine, specs, [1] * len(specs), rates)


def _seconds(engine: str, specs: Sequence[TrialSpec], steps: Sequence[int], rates: Rates) -> float:
    spec = specs[0]
    longest, total = max(steps), sum(steps)
    if engine == "autograd":
        return total * rates.autograd
    if engine == "convex":
        # Decompositions run at a third of the rate of products, and hardly any problem takes more steps.
        iterations = sum(min(n, SOLVER_STEPS) for n in steps)
        return min(longest, SOLVER_STEPS) * 30 * rates.call + 3 * iterations * lane_cost(spec).flops * rates.batched
    if engine == "fused":
        kernel = kernel_of(spec)
        assert kernel is not None, "asked of what has a kernel"
        return kernel.seconds(specs, steps, rates)
    products = spec.factorization.cost(spec.shape).products * (1 if spec.optimizer is None else spec.optimizer.evaluations)
    per_step, cost = rates.call * calls(spec), lane_cost(spec)
    precision = ITEM_BYTES[spec.dtype] / 8
    lane = products * rates.product + (cost.touched * rates.touched + cost.flops * rates.batched) * precision
    return longest * per_step + total * lane


def calls(spec: TrialSpec) -> int:
    """Return about how many calls into PyTorch a step of the batched engine takes: on a GPU each starts a kernel."""
    evaluations = 1 if spec.optimizer is None else spec.optimizer.evaluations
    return evaluations * (spec.factorization.cost(spec.shape).products + 2 * len(spec.factor_shapes) + 5)


def splits_well(
    engine: str, specs: Sequence[TrialSpec], steps: Sequence[int], rates: Rates = CORE, *, worth: float = WORTH_SECONDS
) -> bool:
    """Return whether two workers would end trials of ``specs`` that have ``steps`` left noticeably sooner than one."""
    if len(specs) < 2:
        return False
    whole = _seconds(engine, specs, steps, rates)
    half = max(_seconds(engine, specs[n::2], steps[n::2], rates) for n in range(2))
    return half < 0.8 * whole and whole - half > worth
