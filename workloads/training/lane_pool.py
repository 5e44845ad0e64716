"""The trials of a pack: those that wait, and those that are lanes now. Lanes that have ended leave; waiting trials take their places."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workloads.engines.base import Engine
from workloads.engines.lanes import Lanes, Prepared
from workloads.extensions import traced
from workloads.training.preparing import Preparer
from workloads.training.recorder import Recorder
from workloads.training.recording import LOOKS
from workloads.training.results import TrialResult
from workloads.training.schedule import Arrival, Schedule
from workloads.training.trial_state import Outcome, Paused
from workloads.training.watch import Watch
from workloads.trial import Trial, TrialSpec


@dataclass(frozen=True)
class Ended:
    """A trial that has ended: its place in the pack, how it ended, when it started and ended, and its final parameters."""

    key: int
    outcome: Outcome
    steps: int
    started: float
    ended: float
    factors: list[NDArray[Any]]


@dataclass
class LaneSet:
    """Lanes and their schedule."""

    lanes: Lanes
    schedule: Schedule

    def select(self, which: NDArray[np.bool_]) -> None:
        """Drop all lanes but those marked [R]."""
        self.lanes.select(which)
        self.schedule.select(which)

    def extend(self, other: LaneSet) -> None:
        """Append other lanes."""
        self.lanes.extend(other.lanes)
        self.schedule.extend(other.schedule)

    @property
    def active(self) -> NDArray[np.int64]:
        """The places of the lanes that are in training."""
        return np.flatnonzero(self.lanes.active)


def _ends(spec: TrialSpec) -> tuple[int | None, bool]:
    """Return what of a spec decides at which steps it is recorded, the recording given."""
    return spec.stop.steps, bool(spec.stop.conditions)


class LanePool:
    """The trials of a pack by their places in it, up to ``width`` of them lanes at once. Lanes are recorded as soon as they are there."""

    def __init__(self, trials: Sequence[Trial], recorder: Recorder, engine: Engine, preparer: Preparer, device: torch.device) -> None:
        self.trials = list(trials)
        self.recorder, self.engine, self.preparer, self.device = recorder, engine, preparer, device
        self.waiting = deque(range(len(trials)))
        self.set: LaneSet | None = None
        self.ended: list[Ended] = []
        self.failed: list[TrialResult] = []
        self.checkpoints: dict[int, dict[str, list[NDArray[Any]]]] = {}
        self.watch = Watch(recorder.columns)
        self._points = {_ends(spec): recorder.recording.step_points(spec) for spec in (trial.spec for trial in trials)}

    @property
    def busy(self) -> int:
        """How many lanes are in training."""
        return len(self.set.active) if self.set is not None else 0

    def fill(self, width: int, gap: int, now: Callable[[], float]) -> bool:
        """Fill the places of finished lanes, or close them, once they are one in ``gap``. Returns whether any lane is left."""
        while True:
            size = len(self.set.lanes) if self.set is not None else 0
            free = width - self.busy if self.waiting else size - self.busy
            if self.set is not None and free * gap < size:
                return True
            joined = self._take(free, now) if self.waiting else None
            if self.set is None:
                if joined is None:
                    return False
                self.set = joined
            else:
                self._merge(self.set, joined, now)
            if not self.waiting or self.busy:
                return bool(self.busy)

    def _merge(self, present: LaneSet, joined: LaneSet | None, now: Callable[[], float]) -> None:
        """Drop lanes that have ended and append those that joined."""
        try:
            if not present.lanes.active.all():
                present.select(present.lanes.active)
            if joined is not None:
                present.extend(joined)
        except (torch.OutOfMemoryError, MemoryError):
            if joined is not None:
                self.put_back(self.pause(joined, joined.active, now()))
            raise

    def _take(self, room: int, now: Callable[[], float]) -> LaneSet | None:
        """Make up to ``room`` waiting trials lanes, evaluated; ``None`` when no trial is left that can be prepared."""
        keys, prepared = self._prepare(room, now)
        if not keys:
            return None
        try:
            lanes = Lanes(prepared, self.device)
            paused = {place: trial for place, key in enumerate(keys) if isinstance(trial := self.trials[key], Paused)}
            for place, trial in paused.items():
                lanes.step[place] = trial.step
            self.engine.advance(lanes, lanes.step, np.full(len(lanes), -np.inf), 0)
        except (torch.OutOfMemoryError, MemoryError):
            self.put_back(keys)
            raise
        initial = np.array([paused[n].initial_loss if n in paused else loss for n, loss in enumerate(lanes.loss)])
        specs = [p.spec for p in prepared]
        points = [self._points[_ends(spec)] for spec in specs]
        levels = [self.recorder.recording.loss_levels(spec, x) for spec, x in zip(specs, initial, strict=True)]
        schedule = Schedule.start(keys, specs, points, levels, initial, now())
        for place, trial in paused.items():
            schedule.resume(place, trial)
            self._resume(keys[place], trial)
        joined = LaneSet(lanes, schedule)
        try:
            self.arrive(joined, np.array([n not in paused for n in range(len(lanes))]), now())
        except (torch.OutOfMemoryError, MemoryError):
            # Measures that conditions look at take memory, too.
            self.recorder.forget(keys)
            for key in keys:
                self.watch.forget(key)
            self.put_back(keys)
            raise
        return joined

    def _prepare(self, room: int, now: Callable[[], float]) -> tuple[list[int], list[Prepared]]:
        keys: list[int] = []
        prepared: list[Prepared] = []
        while self.waiting and len(keys) < room:
            key = self.waiting.popleft()
            if self._has_ended(key, now):
                continue
            try:
                prepared.append(self.preparer.prepare(self.trials[key]))
                keys.append(key)
            except MemoryError:
                self.put_back([*keys, key])
                raise
            except Exception as error:
                at = now()
                self.failed.append(TrialResult.failure(self.trials[key].trial_id, traced(error), at, at))
        return keys, prepared

    def _has_ended(self, key: int, now: Callable[[], float]) -> bool:
        """Return True if the trial arrived finished. It is one of ``ended`` then."""
        trial = self.trials[key]
        if not isinstance(trial, Paused) or trial.outcome is None:
            return False
        at = now()
        self._resume(key, trial)
        self.ended.append(Ended(key, trial.outcome, trial.step, at - trial.seconds, at, trial.tensors))
        return True

    def _resume(self, key: int, trial: Paused) -> None:
        self.checkpoints[key] = dict(trial.checkpoints)
        self.recorder.resume(key, trial.trace)
        if trial.spec.stop.conditions:
            self.watch.resume(key, trial.trace)

    def put_back(self, keys: Iterable[int]) -> None:
        """Let trials wait again, before all others."""
        self.waiting.extendleft(reversed(list(keys)))

    def arrive(self, some: LaneSet, reached: NDArray[np.bool_], now: float) -> None:
        """Record, check and end the lanes that have ``reached`` [R] what their schedule set for them, or are out of time."""
        lanes, schedule = some.lanes, some.schedule
        late = lanes.active & (now - schedule.started >= schedule.stops.seconds)
        index = np.flatnonzero(reached | late)
        if not len(index):
            return
        arrival = schedule.arrive(index, lanes.step[index], lanes.loss[index], lanes.solved[index], late[index])
        self.recorder.record(schedule.key[index[arrival.record]], lanes, index[arrival.record])
        if self.recorder.recording.checkpoint_steps or self.recorder.recording.checkpoint_losses:
            self._checkpoint(some, index[arrival.record])
        for place, outcome in (arrival.outcomes | self._looked(some, index, arrival)).items():
            lane = index[place]
            factors = [p[lane].numpy(force=True).copy() for p in lanes.params]
            self.ended.append(Ended(int(schedule.key[lane]), outcome, int(lanes.step[lane]), float(schedule.started[lane]), now, factors))
            lanes.active[lane] = False
            self.watch.forget(int(schedule.key[lane]))

    def _looked(self, some: LaneSet, index: NDArray[np.int64], arrival: Arrival) -> dict[int, Outcome]:
        """Return the outcomes of the lanes at ``index`` that have recorded what ends them, by their places in it."""
        if not any(conditional for _, conditional in self._points):
            return {}
        lanes = some.lanes
        due = arrival.record & np.isin(lanes.step[index], LOOKS)
        over = (Outcome.DIVERGED, Outcome.CONVERGED)
        places = [
            n for n in np.flatnonzero(due) if lanes.prepared[index[n]].spec.stop.conditions and arrival.outcomes.get(int(n)) not in over
        ]
        if not places:
            return {}
        where = index[places]
        keys, specs = some.schedule.key[where], [lanes.prepared[n].spec for n in where]
        found = self.watch.look(keys, specs, lanes.step[where], self.recorder.latest(keys))
        return {int(places[n]): outcome for n, outcome in found.items()}

    def _checkpoint(self, some: LaneSet, index: NDArray[np.int64]) -> None:
        """Copy the factors of those of the lanes at ``index`` of which checkpoints are asked for."""
        lanes = some.lanes
        for lane in index:
            made = self.checkpoints.setdefault(int(some.schedule.key[lane]), {})
            for name in self.recorder.recording.checkpoints(int(lanes.step[lane]), float(lanes.loss[lane]), made):
                made[name] = [p[lane].numpy(force=True).copy() for p in lanes.params]

    def states(self, some: LaneSet, places: Sequence[int], now: float) -> list[tuple[int, Paused]]:
        """Return the lanes at ``places`` as they stand: each one's key, and the trial with which it can go on elsewhere."""
        self.recorder.to_host()
        self.recorder.measure()
        lanes, schedule = some.lanes, some.schedule
        rows = [t.numpy(force=True) for t in lanes.tensors]
        states = []
        for place in places:
            key = int(schedule.key[place])
            trial = Paused(
                self.trials[key].trial_id,
                self.trials[key].spec,
                step=int(lanes.step[place]),
                streak=int(schedule.streak[place]),
                level=int(schedule.level[place]),
                seconds=now - float(schedule.started[place]),
                initial_loss=float(schedule.initial[place]),
                tensors=[np.array(row[place]) for row in rows],
                trace=self.recorder.trace(key),
                checkpoints=dict(self.checkpoints.get(key, {})),
            )
            states.append((key, trial))
        return states

    def pause(self, some: LaneSet, places: NDArray[np.int64], now: float) -> list[int]:
        """Take the lanes at ``places`` out of training. Returns the keys of their trials, each of which is `Paused` from now on."""
        states = self.states(some, places.tolist(), now)
        for place, (key, trial) in zip(places, states, strict=True):
            self.trials[key] = trial
            self.recorder.take(key)
            self.checkpoints.pop(key, None)
            self.watch.forget(key)
            some.lanes.active[place] = False
        return [key for key, _ in states]

    def pause_all(self, now: float) -> None:
        """Let all lanes wait again, before all other trials."""
        if self.set is not None:
            self.put_back(self.pause(self.set, self.set.active, now))
            self.set = None
