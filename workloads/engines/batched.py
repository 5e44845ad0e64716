"""The batched engine: all lanes in one program, closed-form gradients, buffers allocated once.

The stop check is exact to the step yet costs little. Lanes are advanced in blocks of several steps; every step's losses are kept, and
looked at once a block. If some lane arrived in the middle, all lanes are put back to the start of the block and advanced to just that
step, which gives the same bits again.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.lanes import Lanes

LONGEST_BLOCK = 64


class BatchedEngine:
    """Trains R lanes side by side (`workloads.engines.base.Engine`)."""

    name = "batched"

    def __init__(self) -> None:
        self._block = 1
        self._step: _Step | None = None

    @torch.no_grad()
    def advance(self, lanes: Lanes, until_step: NDArray[np.int64], until_loss: NDArray[np.float64], limit: int) -> NDArray[np.bool_]:
        """See `workloads.engines.base.Engine.advance`. Returns as soon as one lane has arrived."""
        step = self._step_for(lanes)
        lowest = torch.from_numpy(np.where(lanes.active, until_loss, -np.inf)).to(lanes.device)
        parked = torch.from_numpy(~lanes.active).to(lanes.device) if not lanes.active.all() else None
        remaining = int((until_step - lanes.step)[lanes.active].min())
        done = 0
        while True:
            block = max(0, min(self._block, remaining - done, limit - done))
            losses = step.run(block)
            going = (losses > lowest) & (losses < torch.inf)
            if parked is not None:
                going |= parked
            arrived = np.flatnonzero(~going.all(1).numpy(force=True))
            if len(arrived):
                first = int(arrived[0])
                if first < block:
                    step.back_up(first)
                self._block = max(1, self._block // 2)
                done += first
                losses, going = losses[first], going[first]
                break
            done += block
            self._block = min(LONGEST_BLOCK, 2 * self._block)
            if done >= min(remaining, limit):
                losses, going = losses[block], going[block]
                break
        lanes.step = np.where(lanes.active, lanes.step + done, lanes.step)
        lanes.loss = np.where(lanes.active, losses.numpy(force=True), lanes.loss)
        reached: NDArray[np.bool_] = lanes.active & (~going.numpy(force=True) | (lanes.step >= until_step))
        return reached

    def release(self) -> None:
        """See `workloads.engines.base.Engine.release`."""
        self._step = None

    def _step_for(self, lanes: Lanes) -> _Step:
        """The training step for these lanes as they are now: buffers are kept as long as the set of lanes is the same."""
        if self._step is None or self._step.program is not lanes.program or self._step.lanes is not lanes:
            self._step = _Step(lanes)
        return self._step


class _Step:
    """Buffers for one set of lanes, and the steps that run on them."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.program = lanes.program
        count = len(lanes)
        self.grads = [torch.empty_like(p) for p in lanes.params]
        self.backup = [torch.empty_like(t) for t in lanes.tensors]
        new = lanes.params[0].new_empty
        self.residual = new(count, lanes.observations.width)
        self.outer = new(count, math.prod(lanes.factorization.shape))
        self.losses = new(LONGEST_BLOCK + 1, count)
        self.double_scale = (2 * lanes.loss_scale).unsqueeze(1) if bool((lanes.loss_scale != 0.5).any()) else None
        self.last: int | None = None
        """The row of ``losses`` that belongs to the present parameters."""

    def run(self, steps: int) -> Tensor:
        """Take ``steps`` steps; the losses before each of them and after the last [steps + 1, R], in float64."""
        if steps:
            for kept, tensor in zip(self.backup, self.lanes.tensors, strict=True):
                kept.copy_(tensor)
        if self.last is None:
            self._forward(0)
        else:
            self.losses[0].copy_(self.losses[self.last])
        for done in range(steps):
            self._update()
            self._forward(done + 1)
        self.last = steps
        return self.losses[: steps + 1].double()

    def back_up(self, steps: int) -> None:
        """Undo the last `run` and take only ``steps`` steps of it."""
        for kept, tensor in zip(self.backup, self.lanes.tensors, strict=True):
            tensor.copy_(kept)
        self._forward(0)
        for done in range(steps):
            self._update()
            self._forward(done + 1)
        self.last = steps

    def _forward(self, row: int) -> None:
        """Residual and loss of the present parameters; the loss goes to ``row`` of the block."""
        lanes = self.lanes
        lanes.observations.residual(self.program.forward(lanes.params), self.residual)
        # A batched dot product: unlike a sum over the last axis it gives a lane the same bits whatever the number of lanes.
        torch.bmm(self.residual.unsqueeze(1), self.residual.unsqueeze(2), out=self.losses[row].view(-1, 1, 1))
        self.losses[row].mul_(lanes.loss_scale)

    def _update(self) -> None:
        lanes = self.lanes
        outer = lanes.observations.adjoint(self.residual, self.outer)
        if self.double_scale is not None:
            outer = torch.mul(outer, self.double_scale, out=self.outer)
        self.program.backward(lanes.params, outer, self.grads)
        lanes.optimizer.update(lanes.params, self.grads, lanes.state, lanes.hyper)
