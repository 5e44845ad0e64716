"""From lanes that are to be recorded to traces: lanes are only copied, and measured many rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads import measures
from workloads.engines.lanes import DTYPES, Lanes
from workloads.measures.numerics.snapshot import Snapshot, evaluate
from workloads.measures.work import rows_at_once
from workloads.problems.data.realized import ProblemData
from workloads.training.preparing import Preparer
from workloads.training.recording import Recording
from workloads.training.traces import TraceBuilder
from workloads.training.trial_state import Trace
from workloads.trial import TrialSpec


@dataclass
class _Rows:
    """Copies of lanes to be measured: ``keys`` [K], ``steps`` [K], ``losses`` [K] and ``times`` [K] on the host, ``params`` [K, ...] on the
    device."""

    keys: NDArray[np.int64]
    steps: NDArray[np.int64]
    losses: NDArray[np.float64]
    times: NDArray[np.float64]
    params: list[Tensor]
    problems: list[ProblemData]
    specs: list[TrialSpec]

    def __len__(self) -> int:
        return len(self.keys)

    def at(self, where: slice | NDArray[np.int64]) -> _Rows:
        """Return some of them, by their places."""
        numbers = (self.keys[where], self.steps[where], self.losses[where], self.times[where])
        places = range(len(self))[where] if isinstance(where, slice) else where
        return _Rows(*numbers, [p[where] for p in self.params], [self.problems[n] for n in places], [self.specs[n] for n in places])

    def parts(self, most: int) -> Iterator[_Rows]:
        """Yield them in order, up to so many at a time."""
        return (self.at(slice(first, first + most)) for first in range(0, len(self), most))


class Recorder:
    """Records lanes of trials like ``spec``, by the keys of their trials; ``preparer`` knows where those began."""

    def __init__(self, recording: Recording, spec: TrialSpec, preparer: Preparer) -> None:
        self.recording, self._preparer = recording, preparer
        self._spec = spec
        self._epsilon = torch.finfo(DTYPES[spec.dtype]).eps
        names, columns = recording.names(spec), recording.columns(spec)
        self._names = [name for name in names if not measures.is_final(name)]
        self.final_names = [name for name in names if measures.is_final(name)]
        # How training stands is known without factors.
        self._copied = not all(map(measures.is_state, self._names))
        self._places, self._final_places = (
            [columns.index(c) for name in some for c in measures.column_names(name, spec)] for some in (self._names, self.final_names)
        )
        self._traces = TraceBuilder(columns)
        self._pending: list[_Rows] = []

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of traces."""
        return self._traces.columns

    def record(self, keys: NDArray[np.int64], lanes: Lanes, index: NDArray[np.int64]) -> None:
        """Copy the lanes at ``index``, whose trials have ``keys``, for `measure`."""
        if not len(index):
            return
        where = torch.from_numpy(index).to(lanes.device)
        params = [p.index_select(0, where) for p in lanes.params] if self._copied else []
        problems, specs = [lanes.prepared[i].problem for i in index], [lanes.prepared[i].spec for i in index]
        times = lanes.times(index) if "time" in self._names else np.full(len(index), np.nan)
        self._pending.append(_Rows(keys, lanes.step[index], lanes.loss[index], times, params, problems, specs))

    @property
    def waiting(self) -> int:
        """How many lanes have been copied, and not measured yet."""
        return sum(map(len, self._pending))

    def to_host(self) -> None:
        """Move copies to the host, which has room when the device has none."""
        for rows in self._pending:
            rows.params = [p.cpu() for p in rows.params]

    def measure(self) -> None:
        """Compute the measures of all copied lanes, many at once, on the host where the device has no room for that.

        Rows that were not measured stay what is to be measured.
        """
        try:
            self._measure()
        except torch.OutOfMemoryError:
            self.to_host()
            self._measure()

    def _measure(self) -> None:
        most = rows_at_once(self._spec)
        self._pending = [part for rows in self._pending for part in rows.parts(most)]
        while self._pending:
            counts = np.cumsum([len(rows) for rows in self._pending])
            some = self._pending[: np.searchsorted(counts, most, side="right")]
            self._measure_together(some)
            del self._pending[: len(some)]

    def _measure_together(self, some: Sequence[_Rows]) -> None:
        keys, steps, losses, times = (np.concatenate([getattr(r, name) for r in some]) for name in ("keys", "steps", "losses", "times"))
        params = [torch.cat([p.to(parts[-1].device) for p in parts]) for parts in zip(*(rows.params for rows in some), strict=True)]
        problems, specs = [problem for rows in some for problem in rows.problems], [spec for rows in some for spec in rows.specs]
        values = np.full((len(keys), len(self._traces.columns)), np.nan)
        values[:, self._places] = self._evaluate(self._names, params, losses, times, problems, specs)
        self._traces.add(keys, steps, values)

    def _evaluate(
        self,
        names: Sequence[str],
        params: Sequence[Tensor],
        losses: NDArray[np.float64],
        times: NDArray[np.float64],
        problems: Sequence[ProblemData],
        specs: Sequence[TrialSpec],
    ) -> NDArray[np.float64]:
        loss, time = (torch.from_numpy(numbers).to(params[0].device if params else "cpu") for numbers in (losses, times))
        known = self._preparer.start, time, self._preparer.arrays(self.recording.references)
        return evaluate(names, Snapshot(self._spec.factorization, params, loss, problems, self._epsilon, specs, *known))

    def resume(self, key: int, trace: Trace) -> None:
        """Put what a trial has recorded elsewhere before what it will record here."""
        self._traces.add(np.full(len(trace.steps), key), trace.steps, trace.values)

    def trace(self, key: int) -> Trace:
        """Return what a trial has recorded and `measure` has seen."""
        return self._traces.copy(key)

    def latest(self, keys: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return what was recorded last of trials that have a row [K, C]."""
        self.measure()
        return np.stack([self._traces.last(int(key)) for key in keys])

    def take(self, key: int) -> Trace:
        """Return what a trial has recorded, and forget it."""
        return self._traces.take(key)

    def forget(self, keys: Sequence[int]) -> None:
        """Forget what trials have recorded, and what is yet to be measured of them."""
        for key in keys:
            self._traces.take(key)
        self.to_host()
        self._pending = [rows.at(np.flatnonzero(~np.isin(rows.keys, keys))) for rows in self._pending]
        self._pending = [rows for rows in self._pending if len(rows)]

    def finals(
        self, factors: Sequence[Sequence[NDArray[Any]]], problems: Sequence[ProblemData], specs: Sequence[TrialSpec]
    ) -> NDArray[np.float64]:
        """Return the measures that are computed only of trials that have ended [R, C], with their final ``factors``."""
        if not factors or not self.final_names:
            return np.empty((len(factors), 0))
        params = [torch.from_numpy(np.stack(arrays)) for arrays in zip(*factors, strict=True)]
        unknown = np.full(len(factors), np.nan)
        return self._evaluate(self.final_names, params, unknown, unknown, problems, specs)

    def finish(self, key: int, finals: NDArray[np.float64]) -> Trace:
        """Return the whole trace of a trial that has ended, with ``finals`` [C] in its last row, and forget it."""
        trace = self.take(key)
        trace.values[-1, self._final_places] = finals
        return trace
