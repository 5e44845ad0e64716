"""Which engine suits a trial. No torch here: planning asks."""

from __future__ import annotations

import importlib.util
import math

from workloads.engines.kernels.updates import UPDATES
from workloads.shapes import parameter_shapes
from workloads.spec import Cp, DeepMatrix, TrialSpec

LARGEST = 32
"""Largest dimension for which fused kernels win over batched matrix products."""
MEASUREMENT_ENTRIES = 1 << 13
"""Largest sensing operator, in entries a lane, that fused kernels keep in cache."""


def why_not_fused(spec: TrialSpec) -> str | None:
    """Why the fused engine cannot train ``spec`` well, or ``None`` where it can."""
    cp = isinstance(spec.factorization, Cp)
    if not isinstance(spec.factorization, DeepMatrix | Cp) or (cp and spec.problem.sensing):
        return f"it has no kernels for {spec.problem.kind} with factorization {spec.factorization.kind}"
    if spec.optimizer.kind not in UPDATES:
        return f"it has no kernels for optimizer {spec.optimizer.kind}"
    if not cp and max(max(shape) for shape in parameter_shapes(spec)) > LARGEST:
        return f"its kernels are for dimensions up to {LARGEST}"
    if spec.problem.sensing and (spec.problem.observations() or 0) * math.prod(spec.shape) > MEASUREMENT_ENTRIES:
        return f"its kernels are for sensing operators of up to {MEASUREMENT_ENTRIES:,} entries"
    if importlib.util.find_spec("warp") is None:
        return "Warp is not installed (pip install warp-lang)"
    return None


def choose(spec: TrialSpec) -> str:
    """The fastest engine for ``spec``."""
    return "batched" if why_not_fused(spec) else "fused"
