"""How far a sweep is, and who is told."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, Self

from workloads.amounts import amount
from workloads.training.trial_state import Outcome


@dataclass
class State:
    """How far a sweep is: trials by outcome, trial-steps, and what MLflow has of it."""

    trials: int
    reused: int
    budget: int
    """Trial-steps if every trial takes all its steps; 0 where that is not known."""
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    steps: int = 0
    rate: float = 0.0
    """Trial-steps per second, over the last seconds."""
    logged: int = 0
    peak_bytes: int = 0
    """Most memory that any worker has used, of its GPU or in its process."""
    settled_steps: int = 0
    """Steps that finished trials did not need after all: they count as done."""

    @property
    def finished(self) -> int:
        """Trials that have ended in this sweep."""
        return sum(self.outcomes.values())

    def encoded(self, at: float) -> str:
        """Return how far a sweep is ``at`` some time, in seconds since the epoch, as text for others to read."""
        return json.dumps({**vars(self), "outcomes": dict(self.outcomes), "at": round(at, 1)})

    @classmethod
    def decoded(cls, text: str) -> tuple[Self, float] | None:
        """Return what `encoded` was given; ``None`` for all else."""
        try:
            told = json.loads(text)
            at = float(told.pop("at"))
            outcomes = Counter({Outcome(name): int(count) for name, count in told.pop("outcomes").items()})
            numbers: dict[str, Any] = {key: float(value) if key == "rate" else int(value) for key, value in told.items()}
            return cls(outcomes=outcomes, **numbers), at
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


class Reporter(Protocol):
    """Where a sweep says how it goes."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def update(self, state: State) -> None:
        """Take note of how far a sweep is; called several times a second while packs run."""


class Logged:
    """A reporter that also keeps what it was told, for `orchestrate logs`."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._lines: list[str] = []

    def note(self, text: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        self._lines += [f"{now}  {line}" for line in text.splitlines()]
        self._reporter.note(text)

    def update(self, state: State) -> None:
        self._reporter.update(state)

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines)


class Meter:
    """Trial-steps per second over the last few seconds."""

    WINDOW = 5.0

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def rate(self, steps: int) -> float:
        now = time.monotonic()
        self._seen.append((now, steps))
        while len(self._seen) > 2 and now - self._seen[1][0] > self.WINDOW:
            self._seen.pop(0)
        (then, before), elapsed = self._seen[0], now - self._seen[0][0]
        return (steps - before) / elapsed if elapsed > 0 and now > then else 0.0


def fraction(state: State) -> float:
    """Return the share of the sweep's trial-steps that is done or not needed after all; of its trials, where steps are not bounded."""
    if state.budget:
        return min(1.0, (state.steps + state.settled_steps) / state.budget)
    return state.finished / max(state.trials - state.reused, 1)


def seconds_left(state: State) -> float | None:
    """Return how many seconds a sweep takes at most, at the rate at which it goes."""
    if not state.rate or not state.budget:
        return None
    return max(0.0, state.budget - state.steps - state.settled_steps) / state.rate


def describe(state: State) -> str:
    """One line: trials, trial-steps per second, time left, and what went wrong."""
    parts = [f"{state.finished + state.reused}/{amount(state.trials, 'trial')}"]
    if state.logged < state.finished:
        parts.append(f"{state.logged} logged")
    if state.rate:
        parts.append(f"{_short(state.rate)} trial-steps/s")
        if (left := seconds_left(state)) is not None:
            parts.append(f"at most {_clock(left)} left")
    trouble = (Outcome.DIVERGED, Outcome.FAILED, Outcome.CANCELLED)
    parts += [f"{state.outcomes[outcome]} {outcome}" for outcome in trouble if state.outcomes[outcome]]
    return ", ".join(parts)


def _short(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
