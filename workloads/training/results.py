"""What comes out of training: outcomes, traces, and the events a pack emits while it runs. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from workloads.training.trial_state import Outcome, Paused, Trace
from workloads.trial import Trial


@dataclass(frozen=True)
class TrialResult:
    """How one trial ended, with everything it recorded.

    ``started`` and ``ended`` are seconds since the epoch; ``factors`` holds the final parameters by name (``W1`` ... or ``A1`` ...);
    ``error`` is the traceback of a failed trial; ``checkpoints`` holds earlier factors by the names of checkpoints.
    """

    trial_id: str
    outcome: Outcome
    steps: int
    started: float
    ended: float
    trace: Trace
    factors: dict[str, NDArray[Any]] = field(default_factory=dict)
    error: str | None = None
    checkpoints: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)

    @classmethod
    def failure(cls, trial_id: str, error: str, started: float, ended: float) -> Self:
        """Return the result of a trial that ended with a traceback before it recorded anything."""
        empty = Trace(("loss",), np.empty(0, dtype=np.int64), np.empty((0, 1)))
        return cls(trial_id, Outcome.FAILED, 0, started, ended, empty, error=error)

    @property
    def seconds(self) -> float:
        return max(0.0, self.ended - self.started)


@dataclass(frozen=True)
class Progress:
    """Trial-steps done since the last such event, and lanes now in training."""

    steps: int
    active: int


@dataclass(frozen=True)
class Finished:
    """Trials of a pack that have ended since the last event.

    A worker adds which ``engine`` trained them on which ``device``, by name, and the most bytes of the device's memory in use so far.
    """

    results: tuple[TrialResult, ...]
    engine: str = ""
    device: str = ""
    peak_bytes: int = 0


@dataclass(frozen=True)
class HandedOver:
    """Trials that a pack gives up, for another worker to go on with. Empty where that would not end the work any sooner."""

    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Checkpoint:
    """Where the trials of a pack stand, as far as they have been trained and not handed on."""

    trials: tuple[Paused, ...]


@dataclass(frozen=True)
class Notice:
    """Something that a person watching should read."""

    text: str


TrainingEvent = Progress | Finished | HandedOver | Checkpoint | Notice


class Request(StrEnum):
    """What a pack in training can be asked for."""

    HALF = "half"
    """Half of its trials, for another worker. The answer is one `HandedOver`."""
    CHECKPOINT = "checkpoint"
    """Where its trials stand. The answer is one `Checkpoint`."""
    STOP = "stop"
    """To hand on what has ended, to say in a last `Checkpoint` where the others stand, and to end."""
