"""Lanes in the layout of kernels of groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.engines.kernels.base import Losses, Steps
from workloads.engines.kernels.course import course_table
from workloads.engines.kernels.group_key import GroupKey
from workloads.engines.kernels.grouped_source import Body, group_kernel
from workloads.engines.kernels.launching import arguments, hyper, start_warp
from workloads.engines.kernels.source import AT_REST, Writer
from workloads.engines.lanes import Lanes

NEVER = np.iinfo(np.int32).max


@dataclass(frozen=True)
class _Tables:
    """What a kernel works on [groups, entries, V], in the order of its arguments."""

    weights: Tensor
    state: Tensor
    targets: Tensor
    masks: Tensor
    scratch: Tensor
    hyper: Tensor


COUNT = 3
"""The row of the course that is the number of observations."""


class _Call:
    """What a kernel is told, how many ``steps`` [groups] each group may take and ``until`` which losses [groups, V], and tells: ``losses``.

    ``course`` [groups, n, V] is that of lanes (`workloads.engines.kernels.course`), the steps that they have done its first row.
    ``goals`` and ``left`` [groups * V] are what lanes are told, on the host, filled anew for each call; the padding stays.
    """

    def __init__(self, groups: int, width: int, like: Tensor, course: Tensor) -> None:
        self.until, self.losses = like.new_zeros(groups, width), like.new_zeros(groups, width)
        self.course = course
        self.steps = torch.zeros(groups, dtype=torch.int32, device=like.device)
        self.goals: NDArray[np.float64] = np.full(groups * width, AT_REST)
        self.left: NDArray[np.int64] = np.full(groups * width, NEVER)


class Groups:
    """Lanes in groups of V side by side: tables [groups, entries, V].

    ``key`` is the kernel's for groups on a CPU, and ``body`` writes it. With ``threads`` V is 1, and the tables are views of memory in
    which groups lie side by side.
    """

    def __init__(self, lanes: Lanes, threads: bool, key: Any, body: Callable[[Any, Writer], Body]) -> None:
        wp = start_warp()
        self.lanes, self.params = lanes, lanes.params
        self.count = len(lanes)
        # A lone lane would leave a group of eight nearly empty.
        targets, masks = lanes.observations.tables()
        shared = key.measurements > 0 and len(masks) == 1 < self.count and not threads
        self.key: GroupKey = replace(key, lanes=1, threads=threads) if threads or self.count == 1 else replace(key, shared=shared)
        width = self.key.lanes
        self.groups = -(-self.count // width)
        targets = targets.expand(self.count, -1)
        if self.key.loss is not None:
            targets = targets.masked_fill(~lanes.observations.seen, float("nan"))
        self.tables = _Tables(
            weights=self._pack(torch.cat([p.flatten(1) for p in lanes.params], 1)),
            state=self._pack(self._state()),
            targets=self._pack(targets),
            masks=masks.clone() if shared else self._pack(masks.expand(self.count, -1)),
            scratch=self._table(max(1, self.key.workspace), lanes.params[0]),
            # Ones in the padding, like those of parked lanes: a step size of lr / (0 + eps) has to stay finite there.
            hyper=self._pack(hyper(lanes), fill=1.0),
        )
        # Ones in the padding: a mini-batch of one of one observation is found at once.
        course = self._pack(course_table(lanes, self.key.update.options).to(lanes.device), fill=1)
        self.call = _Call(self.groups, width, lanes.params[0], course)
        self.parked: NDArray[np.bool_] = np.zeros(self.count, dtype=np.bool_)
        tables = [*vars(self.tables).values(), self.call.until, self.call.steps, self.call.losses, course]
        tables = [table.permute(1, 0, 2) if threads and table.dim() == 3 else table for table in tables]
        device = wp.device_from_torch(lanes.device)
        self.command = wp.launch(group_kernel(self.key, body), dim=self.groups, inputs=arguments(tables), device=device, record_cmd=True)

    def run(self, left: Steps, goals: Losses) -> tuple[Steps, Losses]:
        """See `workloads.engines.kernels.base.Layout`. A group goes on until one of its lanes has arrived."""
        idle = ~self.lanes.active
        self._park(idle)
        call = self.call
        call.goals[: self.count] = np.where(idle, AT_REST, goals)
        call.until.copy_(torch.from_numpy(call.goals).view(call.until.shape))
        call.left[: self.count] = np.where(idle, NEVER, left)
        fewest = call.left.reshape(self.groups, -1).min(1)
        # A group that is all idle has nothing to do.
        call.steps.copy_(torch.from_numpy(np.where(fewest == NEVER, 0, fewest)))
        if self.key.update.options.course:
            begun = np.zeros(self.groups * self.key.lanes, dtype=np.int64)
            begun[: self.count] = self.lanes.step
            call.course[:, 0].copy_(torch.from_numpy(begun).view(self.groups, -1))
        self.command.launch()
        self._unpack()
        done = np.repeat(call.steps.numpy(force=True).astype(np.int64), self.key.lanes)[: self.count]
        return done, call.losses.flatten()[: self.count].double().numpy(force=True)

    def _park(self, idle: NDArray[np.bool_]) -> None:
        """Put lanes that have ended at rest, where they converge at once and can no longer end their group's run."""
        if (idle == self.parked).all():
            return
        for lane in np.flatnonzero(idle & ~self.parked):
            group, place = divmod(int(lane), self.key.lanes)
            # What all lanes share stays: nobody looks at what it makes of zeros.
            own = () if self.key.shared else (self.tables.masks,)
            for table in (self.tables.weights, self.tables.state, self.tables.targets, *own):
                table[group, :, place] = 0.0
            self.tables.hyper[group, :, place] = 1.0
            if self.key.update.options.course:
                self.call.course[group, COUNT, place] = 1
        self.parked = self.parked | idle

    def _state(self) -> Tensor:
        """Return the optimizer's state [R, entries]: what is like the parameters, then what is a number."""
        flat = [t.reshape(self.count, -1) for t in self._kept()]
        return torch.cat(flat, 1) if flat else self.params[0].new_zeros(self.count, 1)

    def _kept(self) -> list[Tensor]:
        """Return the tensors of the optimizer's state, in the kernel's order."""
        return [t for part in self.lanes.state.values() for t in part]

    def _pack(self, rows: Tensor, fill: float = 0.0) -> Tensor:
        """[R, entries] as [groups, entries, V]; zeros in the padding stay zero."""
        padded = rows.new_full((self.groups * self.key.lanes, rows.shape[1]), fill)
        padded[: self.count] = rows
        # Copied into a new tensor: a transposed one may call itself contiguous with strides that Warp refuses.
        return self._table(rows.shape[1], rows).copy_(padded.view(self.groups, self.key.lanes, -1).transpose(1, 2))

    def _table(self, entries: int, like: Tensor) -> Tensor:
        """Room for ``entries`` of all lanes [groups, entries, V]."""
        new = like.new_empty
        if self.key.threads:
            return new(entries, self.groups, 1).permute(1, 0, 2)
        return new(self.groups, entries, self.key.lanes)

    def _unpack(self) -> None:
        """Bring the lanes' parameters and optimizer state up to date."""
        self._spread(self.tables.weights, self.lanes.params)
        if kept := self._kept():
            self._spread(self.tables.state, kept)

    def _spread(self, table: Tensor, tensors: list[Tensor]) -> None:
        rows = table.transpose(1, 2).reshape(self.groups * self.key.lanes, -1)[: self.count]
        start = 0
        for tensor in tensors:
            size = tensor[0].numel()
            tensor.copy_(rows[:, start : start + size].view(tensor.shape))
            start += size
