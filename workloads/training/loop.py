"""The training loop: the only one. It drives an engine from event to event and does all that happens between.

An engine advances lanes until one arrives at the step or the loss that the loop set for it (`workloads.engines.base`). The loop then
decides what the arrival means: a point to record, a stop check, the end of the trial. Finished lanes leave; waiting trials take
their places. Recorded lanes are only copied; their measures are computed later, many rows at a time.

A trial can be paused between two calls of the engine and go on elsewhere (`workloads.training.results.Paused`). That is how a pack gives
half of its work to a worker that has none, how it makes room when the device runs out of memory, and what its checkpoints are.
"""

from __future__ import annotations

import math
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads import measures
from workloads.engines.base import Engine
from workloads.engines.costs import splits_well
from workloads.engines.lanes import DTYPES, Lanes, Prepared
from workloads.engines.rates import CORE, Rates
from workloads.measures.numerics.snapshot import Snapshot, evaluate
from workloads.problems.data.realized import ProblemData
from workloads.training.clocks import Clocks, padded
from workloads.training.preparing import Preparer
from workloads.training.recording import OPEN_END, Recording, TraceBuilder
from workloads.training.results import (
    Checkpoint,
    Event,
    Finished,
    HandedOver,
    Notice,
    Outcome,
    Paused,
    Progress,
    Request,
    Trace,
    TrialResult,
)
from workloads.trial import Trial

CALL_SECONDS = 0.2
"""About how long one call of the engine may take: progress, time budgets and requests are looked at in between."""
PENDING_ROWS = 1024
PENDING_BYTES = 64 << 20
FINAL_NUMBERS = 1 << 15
"""Measures that are computed at the end only are computed for so many numbers at once: in between, some may go to another worker."""
REPORT_SECONDS = 10.0
"""Finished trials are handed on at least this often."""
GAPS = {"cpu": 8, "cuda": 2}
"""Places of finished lanes are closed or filled once they are this share of all: on a GPU they cost less than making its graphs anew."""


def train(
    trials: Sequence[Trial],
    recording: Recording,
    engine: Engine,
    *,
    files: Mapping[str, bytes] | None = None,
    device: torch.device | None = None,
    width: int | None = None,
    clock: Callable[[], float] = time.time,
    asked: Callable[[], Request | None] = lambda: None,
    rates: Rates = CORE,
) -> Iterator[Event]:
    """Train ``trials``, which share a `workloads.trial.TrialSpec.lane_key` and the measures they record, yielding events as they come.

    A `Paused` trial goes on from where it stood. ``width`` bounds how many are lanes at once (all, by default); it is halved when the
    device runs out of memory. ``files`` maps SHA-256 digests to the content of data files. ``asked`` is called several times a second
    for what is wanted. Half of the trials are handed over only if two workers would end them sooner (which ``rates`` tell). Every trial
    comes out in exactly one `Finished` or `HandedOver` event, unless the pack is stopped. A trial that cannot be prepared is
    `Outcome.FAILED`; an exception in training itself is raised and concerns all trials that have not come out.
    """
    if not trials:
        return
    loop = _Loop(trials, recording, engine, files or {}, device or torch.device("cpu"), min(width or len(trials), len(trials)))
    loop.clock, loop.asked, loop.rates = clock, asked, rates
    yield from loop.run()


@dataclass
class _Rows:
    """Copies of lanes to be measured: ``keys`` [K], ``steps`` [K] and ``losses`` [K] on the host, ``params`` [K, ...] on the device."""

    keys: NDArray[np.int64]
    steps: NDArray[np.int64]
    losses: NDArray[np.float64]
    params: list[Tensor]
    problems: list[ProblemData]


_Ended = tuple[int, Outcome, int, float, float, list[NDArray[Any]]]
"""A trial that has ended: key, outcome, steps, when it started and ended, final parameters."""


class _Loop:
    clock: Callable[[], float]
    asked: Callable[[], Request | None]
    rates: Rates

    def __init__(
        self, trials: Sequence[Trial], recording: Recording, engine: Engine, files: Mapping[str, bytes], device: torch.device, width: int
    ) -> None:
        self.trials, self.recording, self.engine, self.device, self.width = list(trials), recording, engine, device, width
        self.preparer = Preparer(files)
        spec = trials[0].spec
        self.factorization = spec.factorization
        names = recording.names(spec)
        self.names = [name for name in names if not measures.is_final(name)]
        self.final_names = [name for name in names if measures.is_final(name)]
        columns = recording.columns(spec)
        self.places, self.final_places = (
            [columns.index(c) for name in some for c in measures.column_names(name, spec)] for some in (self.names, self.final_names)
        )
        self.traces = TraceBuilder(recording.columns(trials[0].spec))
        self.waiting = deque(range(len(trials)))
        self.pending: list[_Rows] = []
        self.ended: list[_Ended] = []
        self.failed: list[TrialResult] = []
        self.steps = 0
        self.limit = 16
        self.stopped = False
        self.kept: dict[int, dict[str, list[NDArray[Any]]]] = {}
        self.points = {spec.stop.steps: recording.step_points(spec) for spec in (trial.spec for trial in trials)}
        self.lanes: Lanes | None = None
        self.clocks: Clocks

    def run(self) -> Iterator[Event]:
        reported = told = self.clock()
        while True:
            try:
                if not self._fill():
                    break
                self._advance()
            except (torch.OutOfMemoryError, MemoryError) as error:
                yield self._shrink(error)
                continue
            now = self.clock()
            if now - told > CALL_SECONDS:
                told = now
                yield self._progress()
            yield from self._answer(self._half)
            if self.stopped:
                return
            if (self.ended or self.failed) and now - reported > REPORT_SECONDS:
                reported = now
                yield from self._deliver()
        yield self._progress()
        yield from self._deliver()

    def _answer(self, half: Callable[[], tuple[Trial, ...]]) -> Iterator[Event]:
        """Do what is asked for; ``half`` takes half of what there is to do out of this pack."""
        match self.asked():
            case Request.HALF:
                yield HandedOver(half())
            case Request.CHECKPOINT:
                yield Checkpoint(self._standing())
            case Request.STOP:
                self.stopped = True
                yield self._progress()
                if not self.final_names:
                    yield from self._deliver()
                yield Checkpoint(self._standing())

    def _progress(self) -> Progress:
        done, self.steps = self.steps, 0
        return Progress(done, int(self.lanes.active.sum()) if self.lanes else 0)

    def _advance(self) -> None:
        """One call of the engine, and what follows from it."""
        lanes = self.lanes
        assert lanes is not None
        began = time.perf_counter()
        before = int(lanes.step[lanes.active].sum())
        reached = self.engine.advance(lanes, *self.clocks.targets(lanes.step, lanes.active), self.limit)
        self.steps += int(lanes.step[lanes.active].sum()) - before
        self._adapt(time.perf_counter() - began, bool(reached.any()))
        self._arrive(reached, self.clock(), lanes, self.clocks)
        if self._rows() >= PENDING_ROWS or self._bytes() >= PENDING_BYTES:
            self._measure()

    def _take(self, room: int) -> tuple[Lanes, Clocks] | None:
        """Up to ``room`` waiting trials as lanes, evaluated; ``None`` when no trial is left that can be prepared."""
        keys: list[int] = []
        prepared: list[Prepared] = []
        while self.waiting and len(keys) < room:
            key = self.waiting.popleft()
            if self._has_ended(key):
                continue
            try:
                prepared.append(self.preparer.prepare(self.trials[key]))
                keys.append(key)
            except MemoryError:
                self._put_back([*keys, key])
                raise
            except Exception:
                now = self.clock()
                self.failed.append(TrialResult.failure(self.trials[key].trial_id, traceback.format_exc(), now, now))
        if not keys:
            return None
        try:
            lanes = Lanes(prepared, self.device)
            paused = {place: trial for place, key in enumerate(keys) if isinstance(trial := self.trials[key], Paused)}
            for place, trial in paused.items():
                lanes.step[place] = trial.step
            self.engine.advance(lanes, lanes.step, np.full(len(lanes), -np.inf), 0)
        except (torch.OutOfMemoryError, MemoryError):
            self._put_back(keys)
            raise
        initial = np.array([paused[n].initial_loss if n in paused else loss for n, loss in enumerate(lanes.loss)])
        clocks = Clocks.start(keys, [p.spec for p in prepared], [self.points[p.spec.stop.steps] for p in prepared], initial, self.clock())
        clocks.levels = padded([self.recording.loss_levels(p.spec, x) for p, x in zip(prepared, initial, strict=True)], -np.inf, np.float64)
        for place, trial in paused.items():
            clocks.resume(place, trial)
            self.kept[keys[place]] = dict(trial.kept)
            self.traces.add(np.full(len(trial.trace.steps), keys[place]), trial.trace.steps, trial.trace.values)
        fresh = np.array([n not in paused for n in range(len(lanes))])
        self._arrive(fresh, self.clock(), lanes, clocks)
        return lanes, clocks

    def _has_ended(self, key: int) -> bool:
        """Whether a trial had ended where it comes from. Then it is one of ``ended`` here."""
        trial = self.trials[key]
        if not isinstance(trial, Paused) or trial.outcome is None:
            return False
        now = self.clock()
        self.kept[key] = dict(trial.kept)
        self.traces.add(np.full(len(trial.trace.steps), key), trial.trace.steps, trial.trace.values)
        self.ended.append((key, trial.outcome, trial.step, now - trial.seconds, now, trial.tensors))
        return True

    def _put_back(self, keys: Iterable[int]) -> None:
        """Let trials wait again, before all others."""
        self.waiting.extendleft(reversed(list(keys)))

    def _pause(self, lanes: Lanes, clocks: Clocks, places: Iterable[int]) -> list[int]:
        """Take the lanes at ``places`` out of training, each a `Paused` trial with the key that is returned."""
        paused = self._states(lanes, clocks, list(places))
        for place, key, trial in paused:
            self.trials[key] = trial
            self.traces.take(key)
            self.kept.pop(key, None)
            lanes.active[place] = False
        return [key for _, key, _ in paused]

    def _states(self, lanes: Lanes, clocks: Clocks, places: Sequence[int]) -> list[tuple[int, int, Paused]]:
        """The lanes at ``places`` as they stand: place, key, and the trial with which it can go on elsewhere."""
        # Through the host, which has room when the device has none.
        for pending in self.pending:
            pending.params = [p.cpu() for p in pending.params]
        self._measure()
        rows = [t.numpy(force=True) for t in lanes.tensors]
        now, states = self.clock(), []
        for place in places:
            key = int(clocks.key[place])
            trial = Paused(
                self.trials[key].trial_id,
                self.trials[key].spec,
                step=int(lanes.step[place]),
                streak=int(clocks.streak[place]),
                level=int(clocks.level[place]),
                seconds=now - float(clocks.started[place]),
                initial_loss=float(clocks.initial[place]),
                tensors=[np.array(row[place]) for row in rows],
                trace=self.traces.copy(key),
                kept=dict(self.kept.get(key, {})),
            )
            states.append((place, key, trial))
        return states

    def _standing(self) -> tuple[Paused, ...]:
        """Where all trials stand that have begun and have not been handed on."""
        lanes = self.lanes
        standing = [trial for trial in (self.trials[key] for key in self.waiting) if isinstance(trial, Paused)]
        if lanes is not None:
            standing += [trial for _, _, trial in self._states(lanes, self.clocks, np.flatnonzero(lanes.active).tolist())]
        self._measure()
        return (*standing, *(self._ended_as_paused(row, self.traces.copy(row[0])) for row in self.ended))

    def _ended_as_paused(self, row: _Ended, trace: Trace) -> Paused:
        """A trial that has ended and is yet to be measured."""
        key, outcome, step, started, ended, factors = row
        trial = self.trials[key]
        kept, unknown = dict(self.kept.get(key, {})), float("nan")
        return Paused(trial.trial_id, trial.spec, step, 0, 0, ended - started, unknown, list(factors), trace, outcome, kept)

    def _half(self) -> tuple[Trial, ...]:
        """Half of the trials that have not ended, taken out of this pack: waiting ones first, then lanes in training."""
        lanes = self.lanes
        active = np.flatnonzero(lanes.active) if lanes is not None else np.empty(0, dtype=np.int64)
        waiting = list(self.waiting)
        left = [int(lanes.step[n]) for n in active] if lanes is not None else []
        trials = [*(self.trials[int(self.clocks.key[n])] for n in active), *(self.trials[key] for key in waiting)]
        done = [*left, *(trial.step if isinstance(trial, Paused) else 0 for trial in trials[len(active) :])]
        remaining = [(trial.spec.stop.steps or OPEN_END) - step for trial, step in zip(trials, done, strict=True)]
        if not splits_well(self.engine.name, [t.spec for t in trials], remaining, self.rates):
            return ()
        share = len(trials) // 2
        given = waiting[1::2] if len(waiting) > 1 else waiting
        given = given[:share]
        self.waiting = deque(key for key in waiting if key not in set(given))
        if lanes is not None and len(given) < share:
            given += self._pause(lanes, self.clocks, active[1::2][: share - len(given)])
        return tuple(self.trials[key] for key in given)

    def _half_of_ended(self) -> tuple[Trial, ...]:
        """Half of the trials that have ended and are yet to be measured, if there are more than are measured at once."""
        if len(self.ended) <= self._at_once():
            return ()
        given, self.ended = self.ended[1::2], self.ended[::2]
        return tuple(self._ended_as_paused(row, self.traces.take(row[0])) for row in given)

    def _shrink(self, error: BaseException) -> Notice:
        """After the device ran out of memory: let all trials wait again, and train half as many at once."""
        lanes, many = self.lanes, self.width
        if lanes is not None:
            active = np.flatnonzero(lanes.active)
            self._put_back(self._pause(lanes, self.clocks, active))
            self.lanes = None
        many = min(many, len(self.waiting))
        if many <= 1:
            raise error
        self.width = many // 2
        # Nothing may hold on to what filled the device: not the engine's buffers, nor the frames of the exception.
        self.engine.release()
        traceback.clear_frames(error.__traceback__)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return Notice(f"out of memory with {many} trials at once: going on with {self.width}")

    def _adapt(self, seconds: float, reached: bool) -> None:
        """Keep one call of the engine at about `CALL_SECONDS`."""
        if seconds > CALL_SECONDS:
            self.limit = max(1, self.limit // 2)
        elif seconds < CALL_SECONDS / 4 and not reached:
            self.limit *= 2

    def _arrive(self, reached: NDArray[np.bool_], now: float, lanes: Lanes, clocks: Clocks) -> None:
        """Record, check and end the lanes that have arrived."""
        late = lanes.active & (now - clocks.started >= clocks.stop_seconds)
        index = np.flatnonzero(reached | late)
        if not len(index):
            return
        step, loss = lanes.step[index], lanes.loss[index]
        finite = np.isfinite(loss)
        checked = (step % clocks.every[index] == 0) & (loss <= clocks.stop_loss[index])
        due = step % clocks.every[index] == 0
        clocks.streak[index] = np.where(checked, clocks.streak[index] + 1, np.where(due, 0, clocks.streak[index]))
        converged = finite & (lanes.solved[index] | (clocks.streak[index] >= clocks.consecutive[index]))
        exhausted = finite & ~converged & ((step >= clocks.stop_steps[index]) | late[index])
        ended = converged | exhausted | ~finite
        point = (clocks.points[index] <= step[:, None]).sum(1)
        level = np.maximum((clocks.levels[index] >= loss[:, None]).sum(1), clocks.level[index])
        record = ended | (point > clocks.point[index]) | (level > clocks.level[index])
        clocks.point[index], clocks.level[index] = point, level
        self._record(lanes, clocks, index[record])
        if self.recording.checkpoint_steps or self.recording.checkpoint_losses:
            self._keep(lanes, clocks, index[record])
        for place in np.flatnonzero(ended):
            lane = index[place]
            outcome = Outcome.DIVERGED if not finite[place] else Outcome.CONVERGED if converged[place] else Outcome.EXHAUSTED
            factors = [p[lane].numpy(force=True).copy() for p in lanes.params]
            self.ended.append((int(clocks.key[lane]), outcome, int(lanes.step[lane]), float(clocks.started[lane]), now, factors))
            lanes.active[lane] = False

    def _record(self, lanes: Lanes, clocks: Clocks, index: NDArray[np.int64]) -> None:
        """Copy the lanes at ``index`` for `_measure`."""
        if not len(index):
            return
        where = torch.from_numpy(index).to(lanes.device)
        params = [p.index_select(0, where) for p in lanes.params]
        problems = [lanes.prepared[i].problem for i in index]
        self.pending.append(_Rows(clocks.key[index], lanes.step[index], lanes.loss[index], params, problems))

    def _keep(self, lanes: Lanes, clocks: Clocks, index: NDArray[np.int64]) -> None:
        """Keep the factors of those of the lanes at ``index`` of which checkpoints are asked for."""
        for lane in index:
            kept = self.kept.setdefault(int(clocks.key[lane]), {})
            for name in self.recording.checkpoints(int(lanes.step[lane]), float(lanes.loss[lane]), kept):
                kept[name] = [p[lane].numpy(force=True).copy() for p in lanes.params]

    def _rows(self) -> int:
        return sum(len(rows.keys) for rows in self.pending)

    def _bytes(self) -> int:
        return sum(p.nbytes for rows in self.pending for p in rows.params)

    def _measure(self) -> None:
        """Compute the measures of all copied lanes at once."""
        if not self.pending:
            return
        keys, steps = (np.concatenate([getattr(rows, name) for rows in self.pending]) for name in ("keys", "steps"))
        losses = np.concatenate([rows.losses for rows in self.pending])
        params = [torch.cat(parts) for parts in zip(*(rows.params for rows in self.pending), strict=True)]
        problems = [problem for rows in self.pending for problem in rows.problems]
        epsilon = torch.finfo(DTYPES[self.trials[0].spec.dtype]).eps
        loss = torch.from_numpy(losses).to(params[0].device)
        values = np.full((len(keys), len(self.traces.columns)), np.nan)
        values[:, self.places] = evaluate(self.names, Snapshot(self.factorization, params, loss, problems, epsilon))
        self.traces.add(keys, steps, values)
        self.pending.clear()

    def _fill(self) -> bool:
        """Give the places of finished lanes to waiting trials and close gaps once they are worth it; whether any lane is left."""
        while True:
            lanes = self.lanes
            busy = int(lanes.active.sum()) if lanes is not None else 0
            size = len(lanes) if lanes is not None else 0
            free = self.width - busy if self.waiting else size - busy
            if lanes is not None and free * GAPS[self.device.type] < size:
                return True
            joined = self._take(free) if self.waiting else None
            if lanes is None:
                if joined is None:
                    return False
                lanes, self.clocks = joined
                self.lanes = lanes
            else:
                self._merge(lanes, joined)
            if not self.waiting or lanes.active.any():
                return bool(lanes.active.any())

    def _merge(self, lanes: Lanes, joined: tuple[Lanes, Clocks] | None) -> None:
        """Drop lanes that have ended and append those that joined."""
        try:
            if not lanes.active.all():
                active = lanes.active
                lanes.keep(active)
                self.clocks.keep(active)
            if joined is not None:
                lanes.extend(joined[0])
                self.clocks.extend(joined[1])
        except (torch.OutOfMemoryError, MemoryError):
            if joined is not None:
                self._put_back(self._pause(*joined, np.flatnonzero(joined[0].active)))
            raise

    def _deliver(self) -> Iterator[Event]:
        """Hand on the trials that have ended; where measures are taken of them only now, some at a time."""
        self._measure()
        while self.ended or self.failed:
            yield Finished(self._results(self._at_once()))
            if self.ended and not self.stopped:
                yield from self._answer(self._half_of_ended)
                if self.stopped:
                    return

    def _at_once(self) -> int:
        """How many of the trials that have ended are measured at once."""
        return max(1, FINAL_NUMBERS // math.prod(self.trials[0].spec.shape)) if self.final_names else len(self.ended)

    def _results(self, count: int) -> tuple[TrialResult, ...]:
        """The first ``count`` of the trials that have ended."""
        names = tuple(self.trials[0].spec.factor_shapes)
        some, self.ended = self.ended[:count], self.ended[count:]
        final = self._measure_ends(some)
        results = []
        for row, (key, outcome, steps, started, ended, factors) in enumerate(some):
            trace = self.traces.take(key)
            trace.values[-1, self.final_places] = final[row]
            kept = {name: dict(zip(names, arrays, strict=True)) for name, arrays in self.kept.pop(key, {}).items()}
            result = TrialResult(self.trials[key].trial_id, outcome, steps, started, ended, trace, dict(zip(names, factors, strict=True)))
            results.append(replace(result, checkpoints=kept) if kept else result)
        results += self.failed
        self.failed = []
        return tuple(results)

    def _measure_ends(self, some: Sequence[_Ended]) -> NDArray[np.float64]:
        """The measures of trials that have ended which are computed only then [R, C]."""
        if not some or not self.final_names:
            return np.empty((len(some), 0))
        specs = [self.trials[key].spec for key, *_ in some]
        params = [torch.from_numpy(np.stack(arrays)) for arrays in zip(*(row[5] for row in some), strict=True)]
        problems = [self.preparer.problem(spec) for spec in specs]
        unknown = torch.full((len(specs),), float("nan"), dtype=torch.float64)
        epsilon = torch.finfo(DTYPES[specs[0].dtype]).eps
        return evaluate(self.final_names, Snapshot(self.factorization, params, unknown, problems, epsilon))
