"""Which engine suits which trials. No torch here: planning asks."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from functools import cache

from workloads.engines.costs import CORE, Rates, engine_seconds
from workloads.engines.kernels.updates import UPDATES
from workloads.shapes import parameter_shapes
from workloads.spec import Cp, DeepMatrix, Solved, TrialSpec

LARGEST = 128
"""Largest dimension of a deep matrix for which fused kernels win over batched matrix products: a group's matrices stay in cache."""
MEASUREMENT_ENTRIES = 1 << 13
"""Largest sensing operator, in entries a lane, that fused kernels keep in cache."""


def why_not_fused(spec: TrialSpec, *, cuda: bool = False) -> str | None:
    """Why the fused engine cannot train ``spec`` well, or ``None`` where it can."""
    cp = isinstance(spec.factorization, Cp)
    if not isinstance(spec.factorization, DeepMatrix | Cp) or (cp and spec.problem.sensing):
        return f"it has no kernels for {spec.problem.kind} with factorization {spec.factorization.kind}"
    if cp and cuda:
        return "its kernels for factorization cp are for CPUs"
    if spec.method not in UPDATES:
        return f"it has no kernels for optimizer {spec.method}"
    if not cp and max(max(shape) for shape in parameter_shapes(spec)) > LARGEST:
        return f"its kernels are for dimensions up to {LARGEST}"
    if spec.problem.sensing and (spec.problem.observations() or 0) * math.prod(spec.shape) > MEASUREMENT_ENTRIES:
        return f"its kernels are for sensing operators of up to {MEASUREMENT_ENTRIES:,} entries"
    if not _has_warp():
        return "Warp is not installed (pip install warp-lang)"
    return None


@cache
def _has_warp() -> bool:
    return importlib.util.find_spec("warp") is not None


def chosen(asked: str, specs: Sequence[TrialSpec], rates: Rates = CORE, *, cuda: bool = False) -> str:
    """The engine for a pack when ``asked`` for one by name or for the fastest (``auto``). What is solved has an engine of its own."""
    if isinstance(specs[0].factorization, Solved):
        return "convex"
    return choose(specs, rates, cuda=cuda) if asked == "auto" else asked


def choose(specs: Sequence[TrialSpec], rates: Rates = CORE, *, cuda: bool = False) -> str:
    """The fastest engine for a pack of ``specs``, which share a `workloads.shapes.lane_key`, on a core or, with ``cuda``, on a GPU."""
    if any(why_not_fused(spec, cuda=cuda) for spec in specs):
        return "batched"
    return min(("fused", "batched"), key=lambda engine: engine_seconds(engine, specs, rates) - (rates.compile if engine == "fused" else 0))


def on_device(engine: str, spec: TrialSpec, *, cuda: bool) -> str:
    """``engine`` or, where it has nothing for the device that a pack has come to, the one that has."""
    return "batched" if engine == "fused" and why_not_fused(spec, cuda=cuda) else engine
