"""The tables of what depends on the number of steps done (`workloads.engines.kernels.options.Options.course`)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from workloads.engines.chance import BATCH, NOISE, lane_seeds
from workloads.engines.kernels.options import Options
from workloads.engines.lanes import Lanes
from workloads.optimizers.schedule import RateSchedule


def options_of(lanes: Lanes) -> Options:
    """Return what of the options of lanes a kernel is generated for."""
    return Options.of([p.spec.optimizer for p in lanes.prepared if p.spec.optimizer is not None])


def course_table(lanes: Lanes, options: Options) -> Tensor:
    """Return the rows of R lanes [R, n] as words of 64 bits, on the CPU. The first is that of the steps done, which change."""
    if not options.course:
        return torch.zeros(len(lanes), 1, dtype=torch.int64)
    specs = [p.spec for p in lanes.prepared]
    counts = [p.problem.count for p in lanes.prepared]
    whole = np.stack((lanes.step, lane_seeds(specs, BATCH), lane_seeds(specs, NOISE), counts), 1)
    schedules = [None if spec.optimizer is None else spec.optimizer.schedule for spec in specs]
    real = np.array([_numbers(schedule or RateSchedule(), options.milestones) for schedule in schedules])
    return torch.from_numpy(np.concatenate((whole.astype(np.int64), real.view(np.int64)), 1))


def _numbers(schedule: RateSchedule, most: int) -> list[float]:
    """Return the numbers of a schedule: zero for what it has not, and milestones that are never reached up to ``most``."""
    milestones, shares = ([float(v) for v in part or ()] for part in (schedule.milestones, schedule.factors))
    missing = most - len(milestones)
    return [
        float(schedule.warmup or 0),
        float(schedule.cosine or 0),
        schedule.floor,
        *milestones,
        *[np.inf] * missing,
        *shares,
        *[1.0] * missing,
    ]
