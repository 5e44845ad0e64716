"""When lanes have to be looked at: the points to record at, the losses to record at, the stop checks, the budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from workloads.training.recording import NEVER
from workloads.training.trial_state import Outcome, Paused
from workloads.trial import TrialSpec


@dataclass(frozen=True)
class Arrival:
    """What follows from the arrival of K lanes: which to ``record`` [K], and the outcomes of those that have ended, by their places."""

    record: NDArray[np.bool_]
    outcomes: dict[int, Outcome]


class LaneArrays:
    """A dataclass of arrays [R, ...] of R lanes, and of others such."""

    def select(self, lanes: NDArray[np.bool_]) -> None:
        """Drop all lanes but those marked [R]."""
        for name, value in vars(self).items():
            if isinstance(value, LaneArrays):
                value.select(lanes)
            else:
                setattr(self, name, value[lanes])

    def extend(self, other: Self) -> None:
        """Append other lanes."""
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            if isinstance(mine, LaneArrays):
                mine.extend(theirs)
            else:
                setattr(self, name, _joined(mine, theirs))


def _joined(mine: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any]:
    if mine.ndim == 2:
        fill = NEVER if mine.dtype == np.int64 else -np.inf
        columns = max(mine.shape[1], theirs.shape[1])
        mine, theirs = (np.pad(a, ((0, 0), (0, columns - a.shape[1])), constant_values=fill) for a in (mine, theirs))
    return np.concatenate((mine, theirs))


@dataclass
class Stops(LaneArrays):
    """When R lanes end: by ``loss``, low enough at ``consecutive`` checks ``every`` so many steps; by ``steps``; by ``seconds``."""

    loss: NDArray[np.float64]
    steps: NDArray[np.int64]
    seconds: NDArray[np.float64]
    every: NDArray[np.int64]
    consecutive: NDArray[np.int64]

    @classmethod
    def of(cls, specs: Sequence[TrialSpec]) -> Stops:
        """Return what the specs say."""
        stops = [spec.stop for spec in specs]
        return cls(
            loss=np.array([-np.inf if s.loss is None else s.loss for s in stops]),
            steps=np.array([NEVER if s.steps is None else s.steps for s in stops], dtype=np.int64),
            seconds=np.array([np.inf if s.seconds is None else s.seconds for s in stops]),
            every=np.array([s.check_every for s in stops], dtype=np.int64),
            consecutive=np.array([s.consecutive for s in stops], dtype=np.int64),
        )


@dataclass
class Schedule(LaneArrays):
    """When R lanes have to be looked at, host arrays with the lane axis first.

    ``points`` [R, K] are the steps to record at and ``levels`` [R, K'] the losses, each row ending in what is never reached; ``point`` and
    ``level`` count those already passed; ``streak`` the stop checks passed in a row; ``initial`` is the loss at step 0; ``started`` is when
    the lane began, in seconds since the epoch, moved on by the time for which it was paused.
    """

    key: NDArray[np.int64]
    points: NDArray[np.int64]
    levels: NDArray[np.float64]
    point: NDArray[np.int64]
    level: NDArray[np.int64]
    streak: NDArray[np.int64]
    initial: NDArray[np.float64]
    started: NDArray[np.float64]
    stops: Stops

    @classmethod
    def start(
        cls,
        keys: Sequence[int],
        specs: Sequence[TrialSpec],
        points: Sequence[NDArray[np.int64]],
        levels: Sequence[NDArray[np.float64]],
        initial: NDArray[np.float64],
        now: float,
    ) -> Schedule:
        """Return the schedule of lanes at step 0; `resume` sets those that are further."""
        count = len(keys)
        return cls(
            key=np.array(keys, dtype=np.int64),
            points=padded(points, NEVER, np.int64),
            levels=padded(levels, -np.inf, np.float64),
            point=np.zeros(count, dtype=np.int64),
            level=np.zeros(count, dtype=np.int64),
            streak=np.zeros(count, dtype=np.int64),
            initial=initial,
            started=np.full(count, now),
            stops=Stops.of(specs),
        )

    def resume(self, lane: int, trial: Paused) -> None:
        """Set one lane to where ``trial`` was paused."""
        self.point[lane] = (self.points[lane] <= trial.step).sum()
        self.level[lane], self.streak[lane] = trial.level, trial.streak
        self.started[lane] -= trial.seconds

    def arrive(
        self,
        index: NDArray[np.int64],
        step: NDArray[np.int64],
        loss: NDArray[np.float64],
        solved: NDArray[np.bool_],
        late: NDArray[np.bool_],
    ) -> Arrival:
        """Take note of K lanes at ``index`` [K] that have done ``step`` [K] steps and have ``loss`` [K]. Returns what follows from it.

        ``solved`` [K] marks lanes for which the loss is no measure, ``late`` [K] those whose time is up.
        """
        finite = np.isfinite(loss)
        due = step % self.stops.every[index] == 0
        low = due & (loss <= self.stops.loss[index])
        self.streak[index] = np.where(low, self.streak[index] + 1, np.where(due, 0, self.streak[index]))
        converged = finite & (solved | (self.streak[index] >= self.stops.consecutive[index]))
        exhausted = finite & ~converged & ((step >= self.stops.steps[index]) | late)
        ended = converged | exhausted | ~finite
        point = _advanced(self.point[index], lambda lanes, passed: self.points[index[lanes], passed] <= step[lanes])
        level = _advanced(self.level[index], lambda lanes, passed: self.levels[index[lanes], passed] >= loss[lanes])
        record: NDArray[np.bool_] = ended | (point > self.point[index]) | (level > self.level[index])
        self.point[index], self.level[index] = point, level
        outcomes = {
            int(n): Outcome.DIVERGED if not finite[n] else Outcome.CONVERGED if converged[n] else Outcome.EXHAUSTED
            for n in np.flatnonzero(ended)
        }
        return Arrival(record, outcomes)

    def targets(self, step: NDArray[np.int64], active: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return where each lane has to be looked at next: a step [R] and a loss [R]."""
        rows = np.arange(len(step))
        point, level = self.points[rows, self.point], self.levels[rows, self.level]
        # Every step is a check, but as long as none has been passed only reaching the loss matters, and the engine watches for that.
        watched = (self.stops.every == 1) & (self.streak == 0)
        check = np.where(watched | np.isneginf(self.stops.loss), NEVER, (step // self.stops.every + 1) * self.stops.every)
        until_step = np.minimum(np.minimum(point, check), self.stops.steps)
        until_loss = np.maximum(level, np.where(watched, self.stops.loss, -np.inf))
        return np.where(active, until_step, NEVER), np.where(active, until_loss, -np.inf)


def _advanced(passed: NDArray[np.int64], reached: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]) -> NDArray[np.int64]:
    """Return how many marks K lanes have passed [K], of which they had ``passed`` so many [K] before. ``reached`` tells of some lanes, by
    their places, whether each has reached the next one. Few lanes pass more than one at a time.
    """
    passed = passed.copy()
    lanes = np.arange(len(passed))
    while len(lanes := lanes[reached(lanes, passed[lanes])]):
        passed[lanes] += 1
    return passed


def padded(rows: Sequence[NDArray[np.int64]] | Sequence[NDArray[np.float64]], fill: float, dtype: type) -> NDArray[Any]:
    """Return rows of unequal length as one array, each followed by ``fill`` at least once."""
    out: NDArray[Any] = np.full((len(rows), max(map(len, rows), default=0) + 1), fill, dtype=dtype)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return out
