"""The fused engine: the whole time loop in one kernel (`workloads.engines.kernels`).

Kernels keep lanes in a layout of their own; after each call the lanes' tensors are brought up to date. A trial has the same bits
whatever its pack and its place in it: no operation crosses lanes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from workloads.engines.kernels import kernel_of
from workloads.engines.kernels.base import Layout, Losses, Steps
from workloads.engines.lanes import Lanes


class FusedEngine:
    """Trains lanes in kernels (`workloads.engines.base.Engine`).

    ``threads``: each lane of a deep matrix factorization has a thread to itself rather than a place in a vector. By default on a GPU.
    """

    name = "fused"

    def __init__(self, *, threads: bool | None = None) -> None:
        self._threads = threads
        self._layout: Layout | None = None

    def advance(self, lanes: Lanes, until_step: Steps, until_loss: Losses, limit: int) -> NDArray[np.bool_]:
        """See `workloads.engines.base.Engine.advance`. Lanes that stand alone go on, each to where it arrives itself."""
        if self._layout is None or self._layout.lanes is not lanes or self._layout.params is not lanes.params:
            kernel = kernel_of(lanes.spec)
            assert kernel is not None, "asked of what has a kernel"
            self._layout = kernel.layout(lanes, threads=lanes.device.type == "cuda" if self._threads is None else self._threads)
        # A loss is never negative: a goal below zero is never reached.
        goals = _round_down(np.where(lanes.active, np.maximum(until_loss, -1.0), -1.0), lanes.dtype)
        left = np.clip(until_step - lanes.step, 0, limit)
        done, losses = self._layout.run(left, goals)
        lanes.step = np.where(lanes.active, lanes.step + done, lanes.step)
        lanes.loss = np.where(lanes.active, losses, lanes.loss)
        arrived = (lanes.step >= until_step) | (lanes.loss <= until_loss) | ~np.isfinite(lanes.loss)
        reached: NDArray[np.bool_] = lanes.active & arrived
        if limit > 0 and not reached.any() and not done[lanes.active].any():
            raise RuntimeError("the fused kernel stands still: a lane that is not in training ended its group's run")
        return reached

    def release(self) -> None:
        """See `workloads.engines.base.Engine.release`."""
        self._layout = None


def _round_down(goals: Losses, dtype: torch.dtype) -> Losses:
    """Return the largest numbers of ``dtype`` that are not above ``goals``: a loss of that type is below both or above both."""
    if dtype is torch.float64:
        return goals
    rounded = goals.astype(np.float32)
    return np.where(rounded > goals, np.nextafter(rounded, np.float32(-np.inf)), rounded).astype(np.float64)
