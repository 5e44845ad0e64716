"""When lanes have to be looked at: the points to record at, the losses to record at, the stop checks, the budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.training.recording import NEVER
from workloads.training.results import Paused
from workloads.trial import TrialSpec


@dataclass
class Clocks:
    """Bookkeeping of R lanes, host arrays with the lane axis first.

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
    stop_loss: NDArray[np.float64]
    stop_steps: NDArray[np.int64]
    stop_seconds: NDArray[np.float64]
    every: NDArray[np.int64]
    consecutive: NDArray[np.int64]

    @classmethod
    def start(
        cls, keys: Sequence[int], specs: Sequence[TrialSpec], points: Sequence[NDArray[np.int64]], initial: NDArray[np.float64], now: float
    ) -> Clocks:
        """Lanes at step 0; `resume` sets those that are further."""
        count = len(keys)
        stops = [s.stop for s in specs]
        return cls(
            key=np.array(keys, dtype=np.int64),
            points=padded(points, NEVER, np.int64),
            levels=np.full((count, 1), -np.inf),
            point=np.zeros(count, dtype=np.int64),
            level=np.zeros(count, dtype=np.int64),
            streak=np.zeros(count, dtype=np.int64),
            initial=initial,
            started=np.full(count, now),
            stop_loss=np.array([-np.inf if s.loss is None else s.loss for s in stops]),
            stop_steps=np.array([NEVER if s.steps is None else s.steps for s in stops], dtype=np.int64),
            stop_seconds=np.array([np.inf if s.seconds is None else s.seconds for s in stops]),
            every=np.array([s.check_every for s in stops], dtype=np.int64),
            consecutive=np.array([s.consecutive for s in stops], dtype=np.int64),
        )

    def resume(self, lane: int, trial: Paused) -> None:
        """Set one lane to where ``trial`` was paused."""
        self.point[lane] = (self.points[lane] <= trial.step).sum()
        self.level[lane], self.streak[lane] = trial.level, trial.streak
        self.started[lane] -= trial.seconds

    def keep(self, lanes: NDArray[np.bool_]) -> None:
        for name, value in vars(self).items():
            setattr(self, name, value[lanes])

    def extend(self, other: Clocks) -> None:
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


def padded(rows: Sequence[NDArray[np.int64]] | Sequence[NDArray[np.float64]], fill: float, dtype: type) -> NDArray[Any]:
    """Rows of unequal length as one array, each followed by ``fill`` at least once."""
    out: NDArray[Any] = np.full((len(rows), max(map(len, rows), default=0) + 1), fill, dtype=dtype)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return out
