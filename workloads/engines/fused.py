"""The fused engine: the whole time loop in one kernel (`workloads.engines.kernels`), lanes side by side in SIMD registers.

Lanes are kept in groups of V in a layout of their own, [groups, entries, V]; between calls the lanes' tensors are brought up to date.
A trial has the same bits whatever its group and its place in it: no operation crosses lanes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.engines.kernels import KernelKey, kernel
from workloads.lanes import Lanes
from workloads.problems import Completion, Sensing
from workloads.shapes import parameter_shapes

GROUP = {"float64": 8, "float32": 16}
"""Lanes in a group on a CPU: one AVX-512 register, or two of AVX2."""


class FusedEngine:
    """Trains lanes in groups (`workloads.engines.base.Engine`)."""

    def __init__(self) -> None:
        self._groups: _Groups | None = None

    def advance(self, lanes: Lanes, until_step: NDArray[np.int64], until_loss: NDArray[np.float64], limit: int) -> NDArray[np.bool_]:
        """See `workloads.engines.base.Engine.advance`. Every group goes on until one of its lanes has arrived."""
        if self._groups is None or self._groups.lanes is not lanes or self._groups.params is not lanes.params:
            self._groups = _Groups(lanes)
        done, losses = self._groups.run(until_step, until_loss, limit)
        lanes.step = np.where(lanes.active, lanes.step + done, lanes.step)
        lanes.loss = np.where(lanes.active, losses, lanes.loss)
        arrived = (lanes.step >= until_step) | (lanes.loss <= until_loss) | ~np.isfinite(lanes.loss)
        reached: NDArray[np.bool_] = lanes.active & arrived
        if limit > 0 and not reached.any() and not done[lanes.active].any():
            raise RuntimeError("the fused kernel stands still: a lane that is not in training ended its group's run")
        return reached


class _Groups:
    """A set of lanes in the kernels' layout."""

    def __init__(self, lanes: Lanes) -> None:
        import warp as wp

        wp.config.log_level = wp.LOG_WARNING
        wp.init()
        spec = lanes.prepared[0].spec
        self.lanes, self.params = lanes, lanes.params
        self.count = len(lanes)
        # A lone lane would leave a group of eight nearly empty; a GPU has a thread for every lane.
        width = 1 if lanes.device.type == "cuda" or self.count == 1 else GROUP[spec.dtype]
        self.groups = -(-self.count // width)
        measurements = lanes.observations.width if spec.problem.sensing else 0
        shapes = tuple((s[0], s[1]) for s in parameter_shapes(spec))
        self.key = KernelKey(shapes, measurements, spec.optimizer.kind, spec.dtype, width)
        self.kernel, self.vec = kernel(self.key)
        self.device = wp.device_from_torch(lanes.device)
        self.weights = self._pack(torch.cat([p.flatten(1) for p in lanes.params], 1))
        self.state = self._pack(self._state())
        targets, masks = self._observed()
        self.targets, self.masks = self._pack(targets), self._pack(masks)
        self.scratch = torch.zeros(self.groups, max(1, self.key.workspace), width, dtype=lanes.dtype, device=lanes.device)
        hyper = [h for h in lanes.optimizer.hyper if h != "lr"]
        none = torch.zeros(self.count, dtype=lanes.dtype, device=lanes.device)
        first, second = (lanes.hyper[hyper[n]] if n < len(hyper) else none for n in range(2))
        # Ones in the padding, like those of parked lanes: a step size of lr / (0 + eps) has to stay finite there.
        self.vectors = [self._row(v, fill=1.0) for v in (lanes.hyper["lr"], first, second, lanes.loss_scale)]
        self.until = torch.zeros(self.groups, width, dtype=lanes.dtype, device=lanes.device)
        self.losses = torch.zeros_like(self.until)
        self.steps = torch.zeros(self.groups, dtype=torch.int32, device=lanes.device)
        self.parked: NDArray[np.bool_] = np.zeros(self.count, dtype=np.bool_)
        tables = [self.weights, self.state, self.targets, self.masks, self.scratch]
        arguments: list[Any] = [wp.from_torch(t, dtype=self.vec) for t in tables]
        arguments += [wp.from_torch(v, dtype=self.vec) for v in (*self.vectors, self.until)]
        arguments += [wp.from_torch(self.steps, dtype=wp.int32), wp.from_torch(self.losses, dtype=self.vec)]
        self.command = wp.launch(self.kernel, dim=self.groups, inputs=arguments, device=self.device, record_cmd=True)

    def run(
        self, until_step: NDArray[np.int64], until_loss: NDArray[np.float64], limit: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Launch the kernel; the steps done and the losses now, both [R]."""
        active = self.lanes.active
        self._park(~active)
        # A loss is never negative: a goal below zero is never reached.
        goals = _round_down(np.where(active, np.maximum(until_loss, -1.0), -1.0), self.lanes.dtype)
        left = np.where(active, np.minimum(until_step - self.lanes.step, limit), limit)
        self.until.copy_(self._row(torch.from_numpy(goals), fill=-1.0))
        padded = np.full(self.groups * self.key.lanes, limit, dtype=np.int64)
        padded[: self.count] = left
        self.steps.copy_(torch.from_numpy(np.maximum(padded.reshape(self.groups, -1).min(1), 0).astype(np.int32)))
        self.command.launch()
        self._unpack()
        done = np.repeat(self.steps.numpy(force=True).astype(np.int64), self.key.lanes)[: self.count]
        return done, self.losses.flatten()[: self.count].double().numpy(force=True)

    def _park(self, idle: NDArray[np.bool_]) -> None:
        """Put lanes that have ended at rest, where they converge at once and can no longer end their group's run."""
        new = np.flatnonzero(idle & ~self.parked)
        for lane in new:
            group, place = divmod(int(lane), self.key.lanes)
            for table in (self.weights, self.state, self.targets, self.masks):
                table[group, :, place] = 0.0
            for vector in self.vectors:
                vector[group, place] = 1.0
        self.parked = self.parked | idle

    def _state(self) -> Tensor:
        """The optimizer's state [R, entries]: as the parameters, or a few numbers a lane."""
        lanes = self.lanes
        if lanes.optimizer.like_params:
            return torch.cat([t.flatten(1) for name in lanes.optimizer.like_params for t in lanes.state[name]], 1)
        if lanes.optimizer.per_lane:
            return torch.stack([lanes.state[name][0] for name, _ in lanes.optimizer.per_lane], 1)
        return torch.zeros(self.count, 1, dtype=lanes.dtype, device=lanes.device)

    def _observed(self) -> tuple[Tensor, Tensor]:
        """Targets [R, N] and masks [R, D], or measured values [R, N] and operators [R, N * D]."""
        match self.lanes.observations:
            case Sensing() as seen:
                pair = (seen.values, seen.operators.flatten(1))
            case Completion() as seen:
                pair = (seen.target, seen.mask)
            case _:
                raise TypeError("observations are completion or sensing")
        return pair[0].expand(self.count, -1), pair[1].expand(self.count, -1)

    def _row(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """[R] as [groups, V], padded."""
        out = torch.full((self.groups * self.key.lanes,), fill, dtype=self.lanes.dtype, device=self.lanes.device)
        out[: self.count] = values
        return out.view(self.groups, self.key.lanes)

    def _pack(self, rows: Tensor) -> Tensor:
        """[R, entries] as [groups, entries, V], padded with zeros, which stay zero."""
        padded = torch.zeros(self.groups * self.key.lanes, rows.shape[1], dtype=self.lanes.dtype, device=self.lanes.device)
        padded[: self.count] = rows
        # Copied into a new tensor: a transposed one may call itself contiguous with strides that Warp refuses.
        out = torch.empty(self.groups, rows.shape[1], self.key.lanes, dtype=self.lanes.dtype, device=self.lanes.device)
        return out.copy_(padded.view(self.groups, self.key.lanes, -1).transpose(1, 2))

    def _unpack(self) -> None:
        """Bring the lanes' parameters and optimizer state up to date."""
        lanes = self.lanes
        self._spread(self.weights, lanes.params)
        if lanes.optimizer.like_params:
            self._spread(self.state, [t for name in lanes.optimizer.like_params for t in lanes.state[name]])
        elif lanes.optimizer.per_lane:
            self._spread(self.state, [lanes.state[name][0] for name, _ in lanes.optimizer.per_lane])

    def _spread(self, table: Tensor, tensors: list[Tensor]) -> None:
        rows = table.transpose(1, 2).reshape(self.groups * self.key.lanes, -1)[: self.count]
        start = 0
        for tensor in tensors:
            size = tensor[0].numel()
            tensor.copy_(rows[:, start : start + size].view(tensor.shape))
            start += size


def _round_down(goals: NDArray[np.float64], dtype: torch.dtype) -> NDArray[np.float64]:
    """The largest numbers of ``dtype`` that are not above ``goals``: a loss of that type is below both or above both."""
    if dtype is torch.float64:
        return goals
    rounded = goals.astype(np.float32)
    return np.where(rounded > goals, np.nextafter(rounded, np.float32(-np.inf)), rounded).astype(np.float64)
