"""The fused engine: the whole time loop in one kernel (`workloads.engines.kernels`).

Kernels keep lanes in a layout of their own; after each call the lanes' tensors are brought up to date. A trial has the same bits
whatever its pack and its place in it: no operation crosses lanes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.engines.kernels.cp import CpKey, cp_kernel
from workloads.engines.kernels.deep_matrix import cpu_key, deep_matrix_kernel
from workloads.engines.kernels.updates import UPDATES
from workloads.lanes import Lanes
from workloads.problems import Completion, Sensing, unique
from workloads.shapes import parameter_shapes
from workloads.spec import Cp

Steps = NDArray[np.int64]
Losses = NDArray[np.float64]


class FusedEngine:
    """Trains lanes in kernels (`workloads.engines.base.Engine`).

    ``threads``: each lane of a deep matrix factorization has a thread to itself rather than a place in a vector. By default on a GPU.
    """

    name = "fused"

    def __init__(self, *, threads: bool | None = None) -> None:
        self._threads = threads
        self._layout: _Layout | None = None

    def advance(self, lanes: Lanes, until_step: Steps, until_loss: Losses, limit: int) -> NDArray[np.bool_]:
        """See `workloads.engines.base.Engine.advance`. Lanes that stand alone go on, each to where it arrives itself."""
        if self._layout is None or self._layout.lanes is not lanes or self._layout.params is not lanes.params:
            if isinstance(lanes.prepared[0].spec.factorization, Cp):
                self._layout = _Singles(lanes)
            else:
                self._layout = _Groups(lanes, lanes.device.type == "cuda" if self._threads is None else self._threads)
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


class _Layout(Protocol):
    """A set of lanes in the layout of a kernel."""

    lanes: Lanes
    params: list[Tensor]

    def run(self, left: Steps, goals: Losses) -> tuple[Steps, Losses]:
        """Launch the kernel with at most ``left`` [R] steps and losses ``goals`` [R] to stop at; the steps done and the losses, [R]."""


def _start_warp() -> Any:
    import warp as wp

    # A machine without a GPU is no news.
    wp.config.log_level = wp.LOG_ERROR
    wp.init()
    return wp


def _arguments(tables: list[Tensor]) -> list[Any]:
    """Tensors as flat Warp arrays that share their memory."""
    wp = _start_warp()
    kinds = {torch.float64: wp.float64, torch.float32: wp.float32, torch.int32: wp.int32}
    return [wp.from_torch(t.view(-1), dtype=kinds[t.dtype]) for t in tables]


def _hyper(lanes: Lanes) -> Tensor:
    """Hyperparameters and the loss's scale [R, n]."""
    return torch.stack([*(lanes.hyper[name] for name in UPDATES[lanes.prepared[0].spec.method].hyper), lanes.loss_scale], 1)


class _Groups:
    """Lanes of a deep matrix factorization, in groups of V side by side: tables [groups, entries, V].

    With ``threads`` V is 1, and the tables are views of memory in which groups lie side by side.
    """

    def __init__(self, lanes: Lanes, threads: bool) -> None:
        wp = _start_warp()
        spec = lanes.prepared[0].spec
        self.lanes, self.params = lanes, lanes.params
        self.count = len(lanes)
        measurements = lanes.observations.width if spec.problem.sensing else 0
        shapes = tuple((s[0], s[1]) for s in parameter_shapes(spec))
        self.key = cpu_key(shapes, measurements, spec.method, spec.dtype)
        if threads or self.count == 1:
            # A lone lane would leave a group of eight nearly empty.
            self.key = replace(self.key, lanes=1, threads=threads)
        width = self.key.lanes
        self.groups = -(-self.count // width)
        self.weights = self._pack(torch.cat([p.flatten(1) for p in lanes.params], 1))
        self.state = self._pack(self._state())
        targets, masks = self._observed()
        self.targets, self.masks = self._pack(targets), self._pack(masks)
        # Ones in the padding, like those of parked lanes: a step size of lr / (0 + eps) has to stay finite there.
        self.hyper = self._pack(_hyper(lanes), fill=1.0)
        new = lanes.params[0].new_zeros
        self.scratch = self._table(max(1, self.key.workspace))
        self.until, self.losses = new(self.groups, width), new(self.groups, width)
        self.steps = torch.zeros(self.groups, dtype=torch.int32, device=lanes.device)
        self.parked: NDArray[np.bool_] = np.zeros(self.count, dtype=np.bool_)
        tables = [self.weights, self.state, self.targets, self.masks, self.scratch, self.hyper]
        if threads:
            tables = [table.permute(1, 0, 2) for table in tables]
        tables += [self.until, self.steps, self.losses]
        device = wp.device_from_torch(lanes.device)
        self.command = wp.launch(deep_matrix_kernel(self.key), dim=self.groups, inputs=_arguments(tables), device=device, record_cmd=True)

    def run(self, left: Steps, goals: Losses) -> tuple[Steps, Losses]:
        """See `_Layout`. A group goes on until one of its lanes has arrived."""
        idle = ~self.lanes.active
        self._park(idle)
        self.until.copy_(self._pack(torch.from_numpy(goals).unsqueeze(1), fill=-1.0)[:, 0])
        padded = np.full(self.groups * self.key.lanes, np.iinfo(np.int32).max)
        padded[: self.count] = np.where(idle, padded[: self.count], left)
        fewest = padded.reshape(self.groups, -1).min(1)
        # A group that is all idle has nothing to do.
        self.steps.copy_(torch.from_numpy(np.where(fewest == np.iinfo(np.int32).max, 0, fewest).astype(np.int32)))
        self.command.launch()
        self._unpack()
        done = np.repeat(self.steps.numpy(force=True).astype(np.int64), self.key.lanes)[: self.count]
        return done, self.losses.flatten()[: self.count].double().numpy(force=True)

    def _park(self, idle: NDArray[np.bool_]) -> None:
        """Put lanes that have ended at rest, where they converge at once and can no longer end their group's run."""
        for lane in np.flatnonzero(idle & ~self.parked):
            group, place = divmod(int(lane), self.key.lanes)
            for table in (self.weights, self.state, self.targets, self.masks):
                table[group, :, place] = 0.0
            self.hyper[group, :, place] = 1.0
        self.parked = self.parked | idle

    def _state(self) -> Tensor:
        """The optimizer's state [R, entries]: what is like the parameters, then what is a number."""
        lanes = self.lanes
        arrays = [t.flatten(1) for name in lanes.optimizer.like_params for t in lanes.state[name]]
        numbers = [lanes.state[name][0].unsqueeze(1) for name, _ in lanes.optimizer.per_lane]
        return torch.cat([*arrays, *numbers], 1) if arrays or numbers else lanes.params[0].new_zeros(self.count, 1)

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

    def _pack(self, rows: Tensor, fill: float = 0.0) -> Tensor:
        """[R, entries] as [groups, entries, V]; zeros in the padding stay zero."""
        padded = self.params[0].new_full((self.groups * self.key.lanes, rows.shape[1]), fill)
        padded[: self.count] = rows
        # Copied into a new tensor: a transposed one may call itself contiguous with strides that Warp refuses.
        return self._table(rows.shape[1]).copy_(padded.view(self.groups, self.key.lanes, -1).transpose(1, 2))

    def _table(self, entries: int) -> Tensor:
        """Room for ``entries`` of all lanes [groups, entries, V]."""
        new = self.params[0].new_empty
        if self.key.threads:
            return new(entries, self.groups, 1).permute(1, 0, 2)
        return new(self.groups, entries, self.key.lanes)

    def _unpack(self) -> None:
        """Bring the lanes' parameters and optimizer state up to date."""
        lanes = self.lanes
        self._spread(self.weights, lanes.params)
        arrays = [t for name in lanes.optimizer.like_params for t in lanes.state[name]]
        numbers = [lanes.state[name][0] for name, _ in lanes.optimizer.per_lane]
        if arrays or numbers:
            self._spread(self.state, [*arrays, *numbers])

    def _spread(self, table: Tensor, tensors: list[Tensor]) -> None:
        rows = table.transpose(1, 2).reshape(self.groups * self.key.lanes, -1)[: self.count]
        start = 0
        for tensor in tensors:
            size = tensor[0].numel()
            tensor.copy_(rows[:, start : start + size].view(tensor.shape))
            start += size


class _Singles:
    """Lanes of a CP factorization, one after another, and the trees of their observed entries. On a CPU only."""

    def __init__(self, lanes: Lanes) -> None:
        wp = _start_warp()
        spec = lanes.prepared[0].spec
        self.lanes, self.params = lanes, lanes.params
        count = len(lanes)
        self.key = CpKey(spec.shape, lanes.params[0].shape[2], spec.method, spec.dtype)
        new = lanes.params[0].new_zeros
        across = self.key.vectors * self.key.width
        self.weights = new(count, self.key.rows, across)
        self.arrays = new(count, max(1, len(lanes.optimizer.like_params)), self.key.rows, across)
        self.numbers = new(count, max(1, len(lanes.optimizer.per_lane)))
        self.until, self.losses = new(count), new(count)
        self.steps = torch.zeros(count, dtype=torch.int32)
        scratch = new(self.key.workspace * self.key.width)
        values, index, child, roots = entry_tree(lanes)
        tables = [self.weights, self.arrays, self.numbers, scratch, _hyper(lanes), self.until, self.steps, self.losses]
        tables += [values, index, child, roots]
        for lane, mine in self._pairs():
            mine.copy_(lane)
        self.command = wp.launch(cp_kernel(self.key), dim=count, inputs=_arguments(tables), device="cpu", record_cmd=True)

    def run(self, left: Steps, goals: Losses) -> tuple[Steps, Losses]:
        """See `_Layout`."""
        self.until.copy_(torch.from_numpy(goals))
        self.steps.copy_(torch.from_numpy(np.where(self.lanes.active, left, -1).astype(np.int32)))
        self.command.launch()
        for lane, mine in self._pairs():
            lane.copy_(mine)
        return np.maximum(self.steps.numpy(), 0).astype(np.int64), self.losses.double().numpy()

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Each tensor of the lanes that a step changes, and where it lies in the tables."""
        optimizer, state = self.lanes.optimizer, self.lanes.state
        pairs = list(zip(self.lanes.params, self._modes(self.weights), strict=True))
        for n, name in enumerate(optimizer.like_params):
            pairs += zip(state[name], self._modes(self.arrays[:, n]), strict=True)
        return pairs + [(state[name][0], self.numbers[:, n]) for n, (name, _) in enumerate(optimizer.per_lane)]

    def _modes(self, table: Tensor) -> list[Tensor]:
        return [part[:, :, : self.key.components] for part in torch.split(table, list(self.key.shape), 1)]


def entry_tree(lanes: Lanes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The observed entries of the lanes as trees, one for each distinct problem, level by level.

    ``values`` and ``index``: of each leaf its observed value, of each node its index in its mode; ``child``: of each inner node
    its first child (one more after a level's last); ``roots`` [R, 2]: the range of each lane's first-level nodes. All levels lie one after
    another in these arrays, and nodes and leaves are named by their place.
    """
    problems, which = unique(lanes.problems)
    shape = lanes.factorization.shape
    size = math.prod(shape)
    entries, seen = [], []
    for place, problem in enumerate(problems):
        assert problem.mask is not None
        assert problem.target is not None
        where = np.flatnonzero(problem.mask)
        entries.append(place * size + where)
        seen.append(problem.target[where])
    flat = np.concatenate(entries)
    strides = [math.prod(shape[level + 1 :]) for level in range(len(shape))]
    levels = [np.unique(flat // stride) for stride in strides]
    starts = np.cumsum([0, *(len(level) + 1 for level in levels)])
    index, child = (np.zeros(starts[-1], dtype=np.int32) for _ in range(2))
    values = np.zeros(starts[-1])
    for n, level in enumerate(levels):
        index[starts[n] : starts[n] + len(level)] = level % shape[n]
        if n + 1 < len(levels):
            parents = levels[n + 1] // shape[n + 1]
            first = np.searchsorted(parents, np.append(level, level[-1] + 1))
            child[starts[n] : starts[n + 1]] = starts[n + 1] + first
    values[starts[-2] : starts[-2] + len(flat)] = np.concatenate(seen)
    bounds = np.searchsorted(levels[0] // shape[0], np.arange(len(problems) + 1)).astype(np.int32)
    ranges = np.stack((bounds[:-1], bounds[1:]), 1)[which]
    return torch.from_numpy(values).to(lanes.dtype), torch.from_numpy(index), torch.from_numpy(child), torch.from_numpy(ranges)


def _round_down(goals: Losses, dtype: torch.dtype) -> Losses:
    """The largest numbers of ``dtype`` that are not above ``goals``: a loss of that type is below both or above both."""
    if dtype is torch.float64:
        return goals
    rounded = goals.astype(np.float32)
    return np.where(rounded > goals, np.nextafter(rounded, np.float32(-np.inf)), rounded).astype(np.float64)
