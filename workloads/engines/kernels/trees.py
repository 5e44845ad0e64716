"""CP factorizations in the layout of their kernels."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from workloads.engines.kernels.base import Losses, Steps
from workloads.engines.kernels.course import course_table, options_of
from workloads.engines.kernels.cp_key import CpKey
from workloads.engines.kernels.cp_source import cp_kernel
from workloads.engines.kernels.launching import arguments, hyper, start_warp
from workloads.engines.kernels.losses import loss_of
from workloads.engines.lanes import Lanes
from workloads.problems.data.realized import unique


class Trees:
    """Lanes of a CP factorization, one after another, and the trees of their observed entries. On a CPU only."""

    def __init__(self, lanes: Lanes) -> None:
        wp = start_warp()
        spec = lanes.spec
        self.lanes, self.params = lanes, lanes.params
        count, stepping = len(lanes), spec.method.stepping
        options = options_of(lanes)
        self.key = CpKey(spec.shape, lanes.params[0].shape[2], spec.method.kind, spec.dtype, options, loss_of(lanes))
        new = lanes.params[0].new_zeros
        across = self.key.vectors * self.key.width
        self.weights = new(count, self.key.rows, across)
        self.arrays = new(count, max(1, len(stepping.like_params)), self.key.rows, across)
        self.numbers = new(count, max(1, len(stepping.per_lane)))
        self.until, self.losses = new(count), new(count)
        self.steps = torch.zeros(count, dtype=torch.int32)
        scratch = new(self.key.workspace * self.key.width)
        self.course = course_table(lanes, options)
        values, index, child, roots, places = entry_tree(lanes)
        tables = [self.weights, self.arrays, self.numbers, scratch, hyper(lanes), self.until, self.steps, self.losses]
        # Vectors of places go on behind the last leaf.
        tables += [values, index, child, roots, torch.cat((places, places.new_zeros(self.key.width))), self.course]
        for lane, mine in self._pairs():
            mine.copy_(lane)
        self.command = wp.launch(cp_kernel(self.key), dim=count, inputs=arguments(tables), device="cpu", record_cmd=True)

    def run(self, left: Steps, goals: Losses) -> tuple[Steps, Losses]:
        """See `workloads.engines.kernels.base.Layout`."""
        self.until.copy_(torch.from_numpy(goals))
        self.steps.copy_(torch.from_numpy(np.where(self.lanes.active, left, -1).astype(np.int32)))
        if options := self.key.update.options.course:
            self.course[:, options.index("begun")] = torch.from_numpy(self.lanes.step)
        self.command.launch()
        for lane, mine in self._pairs():
            lane.copy_(mine)
        return np.maximum(self.steps.numpy(), 0).astype(np.int64), self.losses.double().numpy()

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return each tensor of the lanes that a step changes, and where it lies in the tables."""
        stepping, state = self.lanes.spec.method.stepping, self.lanes.state
        pairs = list(zip(self.lanes.params, self._modes(self.weights), strict=True))
        for n, name in enumerate(stepping.like_params):
            pairs += zip(state[name], self._modes(self.arrays[:, n]), strict=True)
        return pairs + [(state[name][0], self.numbers[:, n]) for n, name in enumerate(stepping.per_lane)]

    def _modes(self, table: Tensor) -> list[Tensor]:
        return [part[:, :, : self.key.components] for part in torch.split(table, list(self.key.shape), 1)]


def entry_tree(lanes: Lanes) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the observed entries of the lanes as trees, one for each distinct problem, level by level.

    ``values`` and ``index``: of each leaf its observed value, of each node its index in its mode; ``child``: of each inner node
    its first child (one more after a level's last); ``roots`` [R, 2]: the range of each lane's first-level nodes; ``places``: of each leaf
    its place in the flat tensor. All levels lie one after another in these arrays, and nodes and leaves are named by their place.
    """
    problems, which = unique(lanes.problems)
    shape = lanes.spec.shape
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
    places = np.zeros(starts[-1], dtype=np.int64)
    places[starts[-2] : starts[-2] + len(flat)] = flat % size
    bounds = np.searchsorted(levels[0] // shape[0], np.arange(len(problems) + 1)).astype(np.int32)
    ranges = np.stack((bounds[:-1], bounds[1:]), 1)[which]
    numbers = (torch.from_numpy(table) for table in (index, child, ranges, places))
    return torch.from_numpy(values).to(lanes.dtype), *numbers  # type: ignore[return-value]
