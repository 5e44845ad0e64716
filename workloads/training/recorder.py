"""From lanes that are to be recorded to traces: lanes are only copied, and measured many rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads import measures
from workloads.engines.lanes import DTYPES, Lanes
from workloads.measures.numerics.snapshot import Snapshot, evaluate
from workloads.problems.data.realized import ProblemData
from workloads.training.policy import Policy
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


class Recorder:
    """Records lanes of trials like ``spec``, by the keys of their trials; ``preparer`` knows where those began."""

    def __init__(self, recording: Recording, spec: TrialSpec, preparer: Preparer) -> None:
        self.recording, self._preparer = recording, preparer
        self._spec = spec
        self._epsilon = torch.finfo(DTYPES[spec.dtype]).eps
        names, columns = recording.names(spec), recording.columns(spec)
        self._names = [name for name in names if not measures.is_final(name)]
        self.final_names = [name for name in names if measures.is_final(name)]
        self._places, self._final_places = (
            [columns.index(c) for name in some for c in measures.column_names(name, spec)] for some in (self._names, self.final_names)
        )
        self._traces = TraceBuilder(columns)
        self._pending: list[_Rows] = []
        self._pending_rows = self._pending_bytes = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of traces."""
        return self._traces.columns

    def record(self, keys: NDArray[np.int64], lanes: Lanes, index: NDArray[np.int64]) -> None:
        """Copy the lanes at ``index``, whose trials have ``keys``, for `measure`."""
        if not len(index):
            return
        where = torch.from_numpy(index).to(lanes.device)
        params = [p.index_select(0, where) for p in lanes.params]
        problems, specs = [lanes.prepared[i].problem for i in index], [lanes.prepared[i].spec for i in index]
        times = lanes.times(index) if "time" in self._names else np.full(len(index), np.nan)
        self._pending.append(_Rows(keys, lanes.step[index], lanes.loss[index], times, params, problems, specs))
        self._pending_rows += len(index)
        self._pending_bytes += sum(p.nbytes for p in params)

    def is_due(self, policy: Policy) -> bool:
        """Return whether enough has been copied to be measured."""
        return self._pending_rows >= policy.pending_rows or self._pending_bytes >= policy.pending_bytes

    def to_host(self) -> None:
        """Move copies to the host, which has room when the device has none."""
        for rows in self._pending:
            rows.params = [p.cpu() for p in rows.params]

    def measure(self) -> None:
        """Compute the measures of all copied lanes at once, on the host where the device has no room for that.

        Rows that were not measured stay what is to be measured.
        """
        if not self._pending:
            return
        try:
            self._measure(self._pending)
        except torch.OutOfMemoryError:
            self.to_host()
            self._measure(self._pending)
        self._pending = []
        self._pending_rows = self._pending_bytes = 0

    def _measure(self, pending: Sequence[_Rows]) -> None:
        keys, steps = (np.concatenate([getattr(rows, name) for rows in pending]) for name in ("keys", "steps"))
        device = pending[-1].params[0].device
        params = [torch.cat([p.to(device) for p in parts]) for parts in zip(*(rows.params for rows in pending), strict=True)]
        losses, times = (
            torch.from_numpy(np.concatenate([getattr(rows, name) for rows in pending])).to(params[0].device) for name in ("losses", "times")
        )
        problems, specs = [problem for rows in pending for problem in rows.problems], [spec for rows in pending for spec in rows.specs]
        values = np.full((len(keys), len(self._traces.columns)), np.nan)
        values[:, self._places] = self._evaluate(self._names, params, losses, problems, specs, times)
        self._traces.add(keys, steps, values)

    def _evaluate(
        self,
        names: Sequence[str],
        params: Sequence[Tensor],
        losses: Tensor,
        problems: Sequence[ProblemData],
        specs: Sequence[TrialSpec],
        times: Tensor | None = None,
    ) -> NDArray[np.float64]:
        known = self._preparer.start, times, self._preparer.arrays(self.recording.references)
        return evaluate(names, Snapshot(self._spec.factorization, params, losses, problems, self._epsilon, specs, *known))

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
        kept = []
        for rows in self._pending:
            stays = ~np.isin(rows.keys, keys)
            if stays.any():
                where = np.flatnonzero(stays)
                params = [p[torch.from_numpy(where)] for p in rows.params]
                problems, specs = [rows.problems[n] for n in where], [rows.specs[n] for n in where]
                numbers = (rows.keys[stays], rows.steps[stays], rows.losses[stays], rows.times[stays])
                kept.append(_Rows(*numbers, params, problems, specs))
        self._pending = kept
        self._pending_rows = sum(len(rows.keys) for rows in kept)
        self._pending_bytes = sum(p.nbytes for rows in kept for p in rows.params)

    def finals(
        self, factors: Sequence[Sequence[NDArray[Any]]], problems: Sequence[ProblemData], specs: Sequence[TrialSpec]
    ) -> NDArray[np.float64]:
        """Return the measures that are computed only of trials that have ended [R, C], with their final ``factors``."""
        if not factors or not self.final_names:
            return np.empty((len(factors), 0))
        params = [torch.from_numpy(np.stack(arrays)) for arrays in zip(*factors, strict=True)]
        unknown = torch.full((len(factors),), float("nan"), dtype=torch.float64)
        return self._evaluate(self.final_names, params, unknown, problems, specs)

    def finish(self, key: int, finals: NDArray[np.float64]) -> Trace:
        """Return the whole trace of a trial that has ended, with ``finals`` [C] in its last row, and forget it."""
        trace = self.take(key)
        trace.values[-1, self._final_places] = finals
        return trace
