"""The training loop: the only one. It drives an engine from event to event and does all that happens between.

An engine advances lanes until one arrives at the step or the loss that the loop set for it (`workloads.engines.base`). A schedule then
decides what the arrival means: a point to record, a stop check, the end of the trial (`LanePool.arrive`).

A trial can be paused between two calls of the engine and go on elsewhere (`Paused`). That is how a pack gives half of its work to a worker
that has none, how it makes room when the device runs out of memory, and what its checkpoints are.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from workloads.amounts import amount
from workloads.engines.base import Engine
from workloads.engines.rates import CORE, Rates
from workloads.training.endings import Endings
from workloads.training.lane_pool import LanePool
from workloads.training.policy import Policy
from workloads.training.preparing import Preparer
from workloads.training.recorder import Recorder
from workloads.training.recording import OPEN_END, Recording
from workloads.training.results import Checkpoint, Finished, HandedOver, Notice, Progress, Request, TrainingEvent
from workloads.training.trial_state import Paused
from workloads.trial import Trial


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
    policy: Policy | None = None,
) -> Iterator[TrainingEvent]:
    """Train ``trials``, which share a lane key and the measures they record, yielding events as they come.

    A `Paused` trial goes on from where it stood. ``width`` bounds how many are lanes at once (all, by default); it is halved when the
    device runs out of memory. ``files`` maps SHA-256 digests to the content of data files. ``asked`` is called several times a second
    for what is wanted. Half of the trials are handed over only if two workers would end them sooner (which ``rates`` tell). Every trial
    comes out in exactly one `Finished` or `HandedOver` event, unless the pack is stopped. A trial that cannot be prepared is
    `Outcome.FAILED`; an exception in training itself is raised and concerns all trials that have not come out.
    """
    if not trials:
        return
    preparer = Preparer(files or {})
    recorder = Recorder(recording, trials[0].spec, preparer)
    pool = LanePool(trials, recorder, engine, preparer, device or torch.device("cpu"))
    yield from _Loop(pool, min(width or len(trials), len(trials)), clock, asked, rates, policy or Policy()).run()


class _Loop:
    def __init__(
        self,
        pool: LanePool,
        width: int,
        clock: Callable[[], float],
        asked: Callable[[], Request | None],
        rates: Rates,
        policy: Policy,
    ) -> None:
        self.pool, self.endings, self.width = pool, Endings(pool, policy), width
        self.clock, self.asked, self.rates, self.policy = clock, asked, rates, policy
        self.steps = 0
        self.limit = policy.steps or 16
        self.due = policy.due(pool.trials[0].spec)
        self.stopped = False

    def run(self) -> Iterator[TrainingEvent]:
        gap, reported = self.policy.gaps[self.pool.device.type], self.clock()
        told = reported
        while True:
            try:
                if not self.pool.fill(self.width, gap, self.clock):
                    break
                self._advance()
            except (torch.OutOfMemoryError, MemoryError) as error:
                yield self._shrink(error)
                continue
            now = self.clock()
            if now - told > self.policy.progress_seconds:
                told = now
                yield self._progress()
            yield from self._answer(self._half)
            if self.stopped:
                return
            if self.endings.waiting and now - reported > self.policy.report_seconds:
                reported = now
                yield from self._deliver()
        yield self._progress()
        yield from self._deliver()

    def _advance(self) -> None:
        """Call the engine once, and do what follows from it."""
        present = self.pool.set
        assert present is not None
        lanes, schedule = present.lanes, present.schedule
        began = time.perf_counter()
        before = int(lanes.step[lanes.active].sum())
        reached = self.pool.engine.advance(lanes, *schedule.targets(lanes.step, lanes.active), self.limit)
        self.steps += int(lanes.step[lanes.active].sum()) - before
        self._adapt(time.perf_counter() - began, bool(reached.any()))
        self.pool.arrive(present, reached, self.clock())
        if self.pool.recorder.waiting >= self.due:
            self.pool.recorder.measure()

    def _adapt(self, seconds: float, reached: bool) -> None:
        """Keep one call of the engine at about the time it is to take."""
        if self.policy.steps is not None:
            return
        if seconds > self.policy.call_seconds:
            self.limit = max(1, self.limit // 2)
        elif seconds < self.policy.call_seconds / 4 and not reached:
            self.limit *= 2

    def _progress(self) -> Progress:
        done, self.steps = self.steps, 0
        return Progress(done, self.pool.busy)

    def _answer(self, half: Callable[[], tuple[Trial, ...]]) -> Iterator[TrainingEvent]:
        """Do what is asked for; ``half`` takes half of what there is to do out of this pack."""
        match self.asked():
            case Request.HALF:
                yield HandedOver(half())
            case Request.CHECKPOINT:
                yield Checkpoint(self._standing())
            case Request.STOP:
                self.stopped = True
                yield self._progress()
                if not self.pool.recorder.final_names:
                    yield from self._deliver()
                yield Checkpoint(self._standing())

    def _standing(self) -> tuple[Paused, ...]:
        """Return where all trials stand that have begun and have not been handed on."""
        pool = self.pool
        standing = [trial for trial in (pool.trials[key] for key in pool.waiting) if isinstance(trial, Paused)]
        if pool.set is not None:
            standing += [trial for _, trial in pool.states(pool.set, pool.set.active.tolist(), self.clock())]
        pool.recorder.measure()
        return (*standing, *self.endings.standing())

    def _half(self) -> tuple[Trial, ...]:
        """Take half of the trials that have not ended out of this pack: waiting ones first, then lanes in training."""
        pool, present = self.pool, self.pool.set
        active = [] if present is None else present.active.tolist()
        waiting = list(pool.waiting)
        keys = [*(int(present.schedule.key[n]) for n in active if present is not None), *waiting]
        trials = [pool.trials[key] for key in keys]
        done = [int(present.lanes.step[n]) for n in active if present is not None]
        done += [trial.step if isinstance(trial, Paused) else 0 for trial in trials[len(active) :]]
        left = [(trial.spec.stop.steps or OPEN_END) - step for trial, step in zip(trials, done, strict=True)]
        if not self.policy.splits(pool.engine.name, [trial.spec for trial in trials], left, self.rates):
            return ()
        share = len(trials) // 2
        given = (waiting[1::2] if len(waiting) > 1 else waiting)[:share]
        pool.waiting = deque(key for key in waiting if key not in set(given))
        if present is not None and len(given) < share:
            given += pool.pause(present, present.active[1::2][: share - len(given)], self.clock())
        return tuple(pool.trials[key] for key in given)

    def _shrink(self, error: BaseException) -> Notice:
        """Let all trials wait after the device ran out of memory, and train half as many at once. Raises ``error`` for a single one."""
        self.pool.pause_all(self.clock())
        many = min(self.width, len(self.pool.waiting))
        if many <= 1:
            raise error
        self.width = many // 2
        # Nothing may hold on to what filled the device: not the engine's buffers, nor the frames of the exception.
        self.pool.engine.release()
        traceback.clear_frames(error.__traceback__)
        if self.pool.device.type == "cuda":
            torch.cuda.empty_cache()
        return Notice(f"out of memory with {amount(many, 'trial')} at once: going on with {self.width}")

    def _deliver(self) -> Iterator[TrainingEvent]:
        """Hand on the trials that have ended; where measures are taken of them only now, some at a time."""
        self.pool.recorder.measure()
        while self.endings.waiting:
            yield Finished(self.endings.results())
            if self.pool.ended and not self.stopped:
                yield from self._answer(self.endings.half)
                if self.stopped:
                    return
