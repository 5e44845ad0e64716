"""What the sections share: lanes on a device, advanced by an engine, and how far apart two results are."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.engines import matrix
from workloads.engines.base import Engine
from workloads.engines.lanes import Lanes
from workloads.inits import INITS
from workloads.training.preparing import Preparer
from workloads.trial import Trial, TrialSpec

TOLERANCE = 1e-9
"""How far a number in float64 may be from the one that a CPU computes, relative to it."""


def lanes_of(specs: Sequence[TrialSpec], device: torch.device) -> Lanes:
    """Lanes at the start of trials of ``specs``."""
    preparer = Preparer({})
    return Lanes([preparer.prepare(Trial(f"t{n}", spec)) for n, spec in enumerate(specs)], device)


def learning(size: int) -> TrialSpec:
    """Completion of a square matrix, as its speed is measured, by steps so large that each can be seen in the loss."""
    one = matrix(size)
    assert one.optimizer is not None
    start = INITS["gaussian"].model_validate({"product_scale": 0.5 / size})
    return one.model_copy(update={"optimizer": one.optimizer.model_copy(update={"lr": 0.02}), "init": start})


def advance(engine: Engine, lanes: Lanes, steps: int) -> Lanes:
    """Take every lane ``steps`` further, however many calls that needs."""
    goal, never = lanes.step + steps, np.full(len(lanes), -np.inf)
    while (lanes.step < goal).any():
        before = int(lanes.step.sum())
        reached = engine.advance(lanes, goal, never, steps)
        if int(lanes.step.sum()) == before and not reached.all():
            raise RuntimeError(f"{engine.name} stands still at steps {lanes.step.tolist()}, with losses {lanes.loss.tolist()}")
        if not np.isfinite(lanes.loss).all():
            raise RuntimeError(f"{engine.name} diverges: losses {lanes.loss.tolist()}")
    return lanes


def products(lanes: Lanes) -> NDArray[np.float64]:
    """The lanes' end-to-end matrices or tensors [R, *shape]; of functions, which have none, all parameters [R, P]."""
    functions = lanes.factorization.maps
    ends = torch.cat([p.flatten(1) for p in lanes.params], 1) if functions else lanes.factorization.products(lanes.params)
    found: NDArray[np.float64] = ends.double().numpy(force=True)
    return found


def difference(mine: Any, truth: Any) -> float:
    """The largest difference of two arrays relative to the largest number in ``truth``; infinite unless both are finite."""
    mine, truth = np.asarray(mine, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if mine.shape != truth.shape or not (np.isfinite(mine).all() and np.isfinite(truth).all()):
        return float("inf")
    largest = float(np.abs(truth).max(initial=0.0)) or 1.0
    return float(np.abs(mine - truth).max(initial=0.0)) / largest


@functools.cache
def memory_of(device: torch.device) -> int:
    """Bytes of a device's memory; of a CPU, as many as its workers count on."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 1 << 30
