"""Packs: trials of equal shape, trained as one batched program by one worker. The unit of scheduling, checkpoints and retries."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, field

from workloads.engines.rates import CORE, Rates
from workloads.training.trial_state import Paused
from workloads.trial import Trial

PACK_BYTES = 1 << 30
"""Memory that one pack may take on a CPU; more lanes than fit wait for a place in it."""


def fitting(room: float, size: float) -> int:
    """Return how many of a ``size`` there is room for: 0.07 goes into 7 a hundred times, as Ray counts and floating point does not."""
    return math.floor(room / size + 1e-9)


@dataclass(frozen=True)
class Crew:
    """Workers of one kind: what they compute on (``cpu`` or ``cuda``), how fast that is, and the bytes that a pack may take there."""

    workers: int
    device: str = "cpu"
    rates: Rates = CORE
    memory: int = PACK_BYTES


@dataclass(frozen=True)
class Pack:
    """Trials of equal shape, trained as one batched program by one worker.

    ``device`` is what it is planned for; ``lane_bytes`` and ``shared_bytes`` are the memory that each lane takes and that all share;
    ``width`` how many are lanes at once; ``seconds`` the estimated time if every trial takes all its steps (``None`` where only a time
    budget is given). ``key`` is the name of its checkpoint, and ``crashes`` how often it has crashed since it last came any further.
    """

    name: str
    engine: str
    device: str
    trials: tuple[Trial, ...]
    width: int
    lane_bytes: int
    shared_bytes: int
    seconds: float | None
    key: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False)
    crashes: int = 0

    @property
    def bytes(self) -> int:
        """Memory that the pack takes, estimated."""
        return self.shared_bytes + self.width * self.lane_bytes

    def lanes_in(self, memory: int) -> int:
        """How many lanes fit into ``memory`` bytes, one at least."""
        return max(1, min(len(self.trials), (memory - self.shared_bytes) // max(self.lane_bytes, 1)))


def has_ended(trial: Trial) -> bool:
    """Return whether a trial of a pack has ended already: it is handed on, and takes no step."""
    return isinstance(trial, Paused) and trial.outcome is not None


def steps_left(trial: Trial) -> int | None:
    """How many steps a trial takes at most from where it stands; ``None`` where only its time is bounded."""
    if has_ended(trial):
        return 0
    steps = trial.spec.stop.steps
    return None if steps is None else steps - (trial.step if isinstance(trial, Paused) else 0)
