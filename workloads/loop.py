"""The training loop: the only one. It drives an engine from event to event and does all that happens between.

An engine advances lanes until one arrives at the step or the loss that the loop set for it (`workloads.engines.base`). The loop then
decides what the arrival means: a point to record, a stop check, the end of the trial. Finished lanes leave; waiting trials take
their places. Recorded lanes are only copied; their measures are computed later, many rows at a time.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.engines.base import Engine
from workloads.lanes import Lanes, Prepared, Preparer
from workloads.recording import NEVER, Recording, TraceBuilder
from workloads.results import Event, Finished, Outcome, Progress, TrialResult
from workloads.snapshot import Snapshot, evaluate
from workloads.spec import Trial, TrialSpec

CALL_SECONDS = 0.2
"""About how long one call of the engine may take: progress and time budgets are looked at in between."""
PENDING_ROWS = 1024
PENDING_BYTES = 64 << 20
REPORT_SECONDS = 10.0
"""Finished trials are handed on at least this often."""


def train(
    trials: Sequence[Trial],
    recording: Recording,
    engine: Engine,
    *,
    files: Mapping[str, bytes] | None = None,
    device: torch.device | None = None,
    width: int | None = None,
    clock: Callable[[], float] = time.time,
) -> Iterator[Event]:
    """Train ``trials``, which share a `workloads.shapes.lane_key` and the measures they record, yielding events as they come.

    ``width`` bounds how many are lanes at once (all, by default); ``files`` maps SHA-256 digests to the content of data files. Every trial
    comes out in exactly one `Finished` event. A trial that cannot be prepared is `Outcome.FAILED`; an exception in training itself
    is raised and concerns all trials not yet finished.
    """
    if not trials:
        return
    yield from _Loop(trials, recording, engine, files or {}, device or torch.device("cpu"), width or len(trials), clock).run()


@dataclass
class _Clocks:
    """Bookkeeping of R lanes, host arrays with the lane axis first.

    ``points`` [R, K] are the steps to record at and ``levels`` [R, K'] the losses, each row ending in what is never reached; ``point`` and
    ``level`` count those already passed; ``streak`` the stop checks passed in a row; ``started`` is when the lane began, in seconds since
    the epoch.
    """

    key: NDArray[np.int64]
    points: NDArray[np.int64]
    levels: NDArray[np.float64]
    point: NDArray[np.int64]
    level: NDArray[np.int64]
    streak: NDArray[np.int64]
    started: NDArray[np.float64]
    stop_loss: NDArray[np.float64]
    stop_steps: NDArray[np.int64]
    stop_seconds: NDArray[np.float64]
    every: NDArray[np.int64]
    consecutive: NDArray[np.int64]

    @classmethod
    def start(cls, keys: Sequence[int], specs: Sequence[TrialSpec], points: Sequence[NDArray[np.int64]], now: float) -> _Clocks:
        count = len(keys)
        stops = [s.stop for s in specs]
        return cls(
            key=np.array(keys, dtype=np.int64),
            points=_padded(points, NEVER, np.int64),
            levels=np.full((count, 1), -np.inf),
            point=np.zeros(count, dtype=np.int64),
            level=np.zeros(count, dtype=np.int64),
            streak=np.zeros(count, dtype=np.int64),
            started=np.full(count, now),
            stop_loss=np.array([-np.inf if s.loss is None else s.loss for s in stops]),
            stop_steps=np.array([NEVER if s.steps is None else s.steps for s in stops], dtype=np.int64),
            stop_seconds=np.array([np.inf if s.seconds is None else s.seconds for s in stops]),
            every=np.array([s.check_every for s in stops], dtype=np.int64),
            consecutive=np.array([s.consecutive for s in stops], dtype=np.int64),
        )

    def keep(self, lanes: NDArray[np.bool_]) -> None:
        for name, value in vars(self).items():
            setattr(self, name, value[lanes])

    def extend(self, other: _Clocks) -> None:
        for name, value in vars(self).items():
            mine, theirs = value, getattr(other, name)
            if mine.ndim == 2:
                fill = NEVER if mine.dtype == np.int64 else -np.inf
                columns = max(mine.shape[1], theirs.shape[1])
                mine, theirs = (np.pad(a, ((0, 0), (0, columns - a.shape[1])), constant_values=fill) for a in (mine, theirs))
            setattr(self, name, np.concatenate((mine, theirs)))

    def targets(self, step: NDArray[np.int64], active: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Where each lane has to be looked at next: a step [R] and a loss [R]."""
        rows = np.arange(len(step))
        point, level = self.points[rows, self.point], self.levels[rows, self.level]
        # Every step is a check, but as long as none has been passed only reaching the loss matters, and the engine watches for that.
        watched = (self.every == 1) & (self.streak == 0)
        check = np.where(watched | np.isneginf(self.stop_loss), NEVER, (step // self.every + 1) * self.every)
        until_step = np.minimum(np.minimum(point, check), self.stop_steps)
        until_loss = np.maximum(level, np.where(watched, self.stop_loss, -np.inf))
        return np.where(active, until_step, NEVER), np.where(active, until_loss, -np.inf)


def _padded(rows: Sequence[NDArray[np.int64]] | Sequence[NDArray[np.float64]], fill: float, dtype: type) -> NDArray[Any]:
    """Rows of unequal length as one array, each followed by ``fill`` at least once."""
    out: NDArray[Any] = np.full((len(rows), max(map(len, rows), default=0) + 1), fill, dtype=dtype)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return out


class _Loop:
    def __init__(
        self,
        trials: Sequence[Trial],
        recording: Recording,
        engine: Engine,
        files: Mapping[str, bytes],
        device: torch.device,
        width: int,
        clock: Callable[[], float],
    ) -> None:
        self.trials, self.recording, self.engine, self.device, self.width, self.clock = trials, recording, engine, device, width, clock
        self.preparer = Preparer(files)
        self.names = recording.names(trials[0].spec)
        self.traces = TraceBuilder(recording.columns(trials[0].spec))
        self.waiting = deque(range(len(trials)))
        self.pending: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], list[Tensor], list[Prepared]]] = []
        self.ended: list[tuple[int, Outcome, int, float, float, list[NDArray[np.float64]]]] = []
        self.failed: list[TrialResult] = []
        self.steps = 0
        self.limit = 16
        self.points = {spec.stop.steps: recording.step_points(spec) for spec in (trial.spec for trial in trials)}
        self.lanes: Lanes
        self.clocks: _Clocks

    def run(self) -> Iterator[Event]:
        reported = told = self.clock()
        if not self._begin():
            yield Finished(tuple(self.failed))
            return
        while self._fill():
            began = time.perf_counter()
            before = int(self.lanes.step[self.lanes.active].sum())
            reached = self.engine.advance(self.lanes, *self.clocks.targets(self.lanes.step, self.lanes.active), self.limit)
            self.steps += int(self.lanes.step[self.lanes.active].sum()) - before
            self._adapt(time.perf_counter() - began, bool(reached.any()))
            now = self.clock()
            self._arrive(reached, now)
            if self._rows() >= PENDING_ROWS or self._bytes() >= PENDING_BYTES:
                self._measure()
            if now - told > CALL_SECONDS:
                told = now
                yield Progress(self.steps, int(self.lanes.active.sum()))
            if (self.ended or self.failed) and now - reported > REPORT_SECONDS:
                reported = now
                yield Finished(self._results())
        yield Progress(self.steps, 0)
        yield Finished(self._results())

    def _begin(self) -> bool:
        """Fill the lanes for the first time; whether there is any."""
        started = self._take(self.width)
        if started is None:
            return False
        self.lanes, self.clocks = started
        return True

    def _take(self, room: int) -> tuple[Lanes, _Clocks] | None:
        """Up to ``room`` waiting trials as lanes, evaluated at step 0; ``None`` when no trial is left that can be prepared."""
        keys: list[int] = []
        prepared: list[Prepared] = []
        while self.waiting and len(keys) < room:
            key = self.waiting.popleft()
            try:
                prepared.append(self.preparer.prepare(self.trials[key].spec))
                keys.append(key)
            except Exception:
                now = self.clock()
                self.failed.append(TrialResult.failure(self.trials[key].trial_id, traceback.format_exc(), now, now))
        if not keys:
            return None
        lanes = Lanes(prepared, self.device)
        clocks = _Clocks.start(keys, [p.spec for p in prepared], [self.points[p.spec.stop.steps] for p in prepared], self.clock())
        self.engine.advance(lanes, np.zeros(len(lanes), dtype=np.int64), np.full(len(lanes), -np.inf), 0)
        levels = [self.recording.loss_levels(p.spec, float(loss)) for p, loss in zip(prepared, lanes.loss, strict=True)]
        clocks.levels = _padded(levels, -np.inf, np.float64)
        self._arrive(np.ones(len(lanes), dtype=np.bool_), self.clock(), lanes, clocks)
        return lanes, clocks

    def _adapt(self, seconds: float, reached: bool) -> None:
        """Keep one call of the engine at about `CALL_SECONDS`."""
        if seconds > CALL_SECONDS:
            self.limit = max(1, self.limit // 2)
        elif seconds < CALL_SECONDS / 4 and not reached:
            self.limit *= 2

    def _arrive(self, reached: NDArray[np.bool_], now: float, lanes: Lanes | None = None, clocks: _Clocks | None = None) -> None:
        """Record, check and end the lanes that have arrived."""
        lanes, clocks = lanes or self.lanes, clocks or self.clocks
        late = lanes.active & (now - clocks.started >= clocks.stop_seconds)
        index = np.flatnonzero(reached | late)
        if not len(index):
            return
        step, loss = lanes.step[index], lanes.loss[index]
        finite = np.isfinite(loss)
        checked = (step % clocks.every[index] == 0) & (loss <= clocks.stop_loss[index])
        due = step % clocks.every[index] == 0
        clocks.streak[index] = np.where(checked, clocks.streak[index] + 1, np.where(due, 0, clocks.streak[index]))
        converged = finite & (clocks.streak[index] >= clocks.consecutive[index])
        exhausted = finite & ~converged & ((step >= clocks.stop_steps[index]) | late[index])
        ended = converged | exhausted | ~finite
        point = (clocks.points[index] <= step[:, None]).sum(1)
        level = np.maximum((clocks.levels[index] >= loss[:, None]).sum(1), clocks.level[index])
        record = ended | (point > clocks.point[index]) | (level > clocks.level[index])
        clocks.point[index], clocks.level[index] = point, level
        self._record(lanes, clocks, index[record])
        for place in np.flatnonzero(ended):
            lane = index[place]
            outcome = Outcome.DIVERGED if not finite[place] else Outcome.CONVERGED if converged[place] else Outcome.EXHAUSTED
            factors = [p[lane].numpy(force=True).copy() for p in lanes.params]
            self.ended.append((int(clocks.key[lane]), outcome, int(lanes.step[lane]), float(clocks.started[lane]), now, factors))
            lanes.active[lane] = False

    def _record(self, lanes: Lanes, clocks: _Clocks, index: NDArray[np.int64]) -> None:
        """Copy the lanes at ``index`` for `_measure`."""
        if not len(index):
            return
        where = torch.from_numpy(index).to(lanes.device)
        params = [p.index_select(0, where) for p in lanes.params]
        self.pending.append((clocks.key[index], lanes.step[index], lanes.loss[index], params, [lanes.prepared[i] for i in index]))

    def _rows(self) -> int:
        return sum(len(keys) for keys, *_ in self.pending)

    def _bytes(self) -> int:
        return sum(p.nbytes for *_, params, _ in self.pending for p in params)

    def _measure(self) -> None:
        """Compute the measures of all copied lanes at once."""
        if not self.pending:
            return
        keys, steps, losses = (np.concatenate([row[n] for row in self.pending]) for n in range(3))
        params = [torch.cat(parts) for parts in zip(*(row[3] for row in self.pending), strict=True)]
        prepared = [p for row in self.pending for p in row[4]]
        self.pending.clear()
        snapshot = Snapshot(
            self.lanes.factorization,
            params,
            torch.from_numpy(losses).to(self.device),
            [p.problem for p in prepared],
            torch.finfo(self.lanes.dtype).eps,
        )
        self.traces.add(keys, steps, evaluate(self.names, snapshot))

    def _fill(self) -> bool:
        """Give the places of finished lanes to waiting trials and close gaps once they are worth it; whether any lane is left."""
        while True:
            busy = int(self.lanes.active.sum())
            free = self.width - busy if self.waiting else len(self.lanes) - busy
            if free * 8 < len(self.lanes):
                return True
            joined = self._take(free) if self.waiting else None
            if busy < len(self.lanes):
                active = self.lanes.active
                self.lanes.keep(active)
                self.clocks.keep(active)
            if joined is not None:
                self.lanes.extend(joined[0])
                self.clocks.extend(joined[1])
            if self.lanes.active.any() or not self.waiting:
                return bool(self.lanes.active.any())

    def _results(self) -> tuple[TrialResult, ...]:
        """The trials that have ended since last asked."""
        self._measure()
        names = self.lanes.factorization.names
        results = [
            TrialResult(
                self.trials[key].trial_id, outcome, steps, started, ended, self.traces.take(key), dict(zip(names, factors, strict=True))
            )
            for key, outcome, steps, started, ended, factors in self.ended
        ]
        results += self.failed
        self.ended, self.failed = [], []
        return tuple(results)
