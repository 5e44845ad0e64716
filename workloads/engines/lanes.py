"""Lanes: R trials of equal shape in training, lane axis first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.engines.loss_numbers import loss_numbers
from workloads.factorizations import Factorization
from workloads.problems.data.observations import Observations
from workloads.problems.data.realized import ProblemData
from workloads.trial import TrialSpec

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True, eq=False)
class Prepared:
    """A trial ready to take a lane: its problem's arrays and its factors, on the CPU.

    ``factors`` are the initial ones, in float64, or those with which a paused trial goes on, in its own dtype, and then ``state`` is the
    optimizer's, flat as in `Lanes.tensors`.
    """

    spec: TrialSpec
    problem: ProblemData
    factors: list[NDArray[Any]]
    state: list[NDArray[Any]] | None = None


class Lanes:
    """The state of R lanes, advanced in place by an engine.

    ``params`` are tensors [R, ...]; ``state`` is the optimizer's, lists of tensors [R, ...]; ``hyper`` its hyperparameters [R] and
    the numbers of its options.
    ``step`` [R] int64 and ``active`` [R] bool live on the host, as does ``loss`` [R] float64, which belongs to ``step`` and is NaN before
    the first evaluation. A lane that is not active is parked: engines may go on computing it but never report it. ``solved`` [R] bool marks
    lanes that have reached a solution for which the loss is no measure.
    """

    def __init__(self, prepared: Sequence[Prepared], device: torch.device) -> None:
        self.device = device
        self.dtype = DTYPES[prepared[0].spec.dtype]
        self.prepared = list(prepared)
        count = len(prepared)
        self.params = [
            torch.from_numpy(np.stack([p.factors[n] for p in prepared])).to(device, self.dtype) for n in range(len(self.spec.factor_shapes))
        ]
        numbers = [{} if p.spec.optimizer is None else p.spec.optimizer.numbers(p.spec.stop) for p in prepared]
        self.hyper = {name: self._per_lane([own[name] for own in numbers]) for name in numbers[0]}
        stepping = self.spec.method.stepping
        self.state = {name: [torch.zeros_like(p) for p in self.params] for name in stepping.like_params}
        self.state |= {name: [torch.full((count,), start, dtype=self.dtype, device=device)] for name, start in stepping.per_lane.items()}
        self._restore()
        self.step: NDArray[np.int64] = np.zeros(count, dtype=np.int64)
        self.loss: NDArray[np.float64] = np.full(count, np.nan)
        self.active: NDArray[np.bool_] = np.ones(count, dtype=np.bool_)
        self.solved: NDArray[np.bool_] = np.zeros(count, dtype=np.bool_)

    def __len__(self) -> int:
        return len(self.prepared)

    def _restore(self) -> None:
        """Give lanes that go on from a pause their optimizer's state."""
        saved = {lane: p.state for lane, p in enumerate(self.prepared) if p.state is not None}
        if not saved:
            return
        where = torch.tensor(list(saved), device=self.device)
        for n, mine in enumerate(t for part in self.state.values() for t in part):
            mine[where] = torch.from_numpy(np.stack([state[n] for state in saved.values()])).to(self.device)

    def _per_lane(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device)

    @property
    def spec(self) -> TrialSpec:
        """The spec of the first lane: what they all share in their `TrialSpec.lane_key` is in it."""
        return self.prepared[0].spec

    @property
    def factorization(self) -> Factorization:
        """How the lanes' parameters make up their matrices or tensors."""
        return self.spec.factorization

    @property
    def problems(self) -> list[ProblemData]:
        """One problem per lane."""
        return [p.problem for p in self.prepared]

    @cached_property
    def observations(self) -> Observations:
        """What the lanes observe."""
        return self.spec.problem.observe(self.problems, self.dtype, self.device, self.spec.shown)

    @cached_property
    def loss_scale(self) -> Tensor:
        """c [R] in loss = c * sum over the observations (`workloads.losses.Loss.factor`); of a mini-batch of inputs, over what it shows."""
        return self._per_lane([p.spec.loss.factor(p.problem.count) * p.spec.share for p in self.prepared])

    @cached_property
    def loss_numbers(self) -> Tensor:
        """The numbers [R, K] of which each lane has its own in its loss (`workloads.engines.pointwise.Pointwise.numbers`)."""
        return loss_numbers([p.spec for p in self.prepared], self.dtype).to(self.device)

    def times(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how far along gradient flow the lanes at ``index`` [K] are [K]; NaN where their optimizer keeps no time."""
        optimizer = self.spec.optimizer
        if optimizer is None or not optimizer.keeps_time:
            return np.full(len(index), np.nan)
        where = torch.from_numpy(index).to(self.device)
        state = {name: self.state[name][0].index_select(0, where).numpy(force=True).tolist() for name in optimizer.stepping.per_lane}
        own, steps = [self.prepared[lane].spec.optimizer for lane in index], self.step[index].tolist()
        numbers = [{name: values[n] for name, values in state.items()} for n in range(len(index))]
        return np.array([o.time_at(step, n) for o, step, n in zip(own, steps, numbers, strict=True) if o is not None])

    @property
    def tensors(self) -> list[Tensor]:
        """Everything that a step changes: parameters and optimizer state."""
        return [*self.params, *(t for part in self.state.values() for t in part)]

    def select(self, lanes: NDArray[np.bool_]) -> None:
        """Drop all lanes but those marked [R]; what depends on the set of lanes is built anew at its next use."""
        index = torch.from_numpy(np.flatnonzero(lanes)).to(self.device)
        self._replace(
            [p for p, stays in zip(self.prepared, lanes, strict=True) if stays],
            [p.index_select(0, index) for p in self.params],
            {name: [t.index_select(0, index) for t in part] for name, part in self.state.items()},
            {name: t.index_select(0, index) for name, t in self.hyper.items()},
        )
        self.step, self.loss, self.active, self.solved = self.step[lanes], self.loss[lanes], self.active[lanes], self.solved[lanes]

    def extend(self, other: Lanes) -> None:
        """Append another set of lanes with the same `workloads.trial.TrialSpec.lane_key`."""
        self._replace(
            [*self.prepared, *other.prepared],
            [torch.cat(pair) for pair in zip(self.params, other.params, strict=True)],
            {name: [torch.cat(pair) for pair in zip(part, other.state[name], strict=True)] for name, part in self.state.items()},
            {name: torch.cat((t, other.hyper[name])) for name, t in self.hyper.items()},
        )
        self.step = np.concatenate((self.step, other.step))
        self.loss = np.concatenate((self.loss, other.loss))
        self.active = np.concatenate((self.active, other.active))
        self.solved = np.concatenate((self.solved, other.solved))

    def _replace(self, prepared: list[Prepared], params: list[Tensor], state: dict[str, list[Tensor]], hyper: dict[str, Tensor]) -> None:
        self.prepared, self.params, self.state, self.hyper = prepared, params, state, hyper
        for derived in ("observations", "loss_scale", "loss_numbers"):
            self.__dict__.pop(derived, None)
