"""How far a trial is: how it ended, what it has recorded, and where it stands if it is to go on elsewhere. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.trial import Trial


class Outcome(StrEnum):
    """How a trial ended."""

    CONVERGED = "converged"
    """The loss asked for was reached, or ``stop.when`` held."""
    EXHAUSTED = "exhausted"
    """The step or time budget was used up first."""
    DIVERGED = "diverged"
    """The loss was no longer finite."""
    FAILED = "failed"
    """An exception was raised."""
    CANCELLED = "cancelled"
    """Somebody asked for it to end."""
    ABORTED = "aborted"
    """``stop.abort`` held. Last: files have outcomes by their places here."""


@dataclass(frozen=True)
class Trace:
    """A trial's measures over its steps: ``steps`` [K] int64, ascending; ``values`` [K, C] float64; ``columns`` C names.

    The first column is ``loss``; the last row belongs to the final step. An undefined value is NaN.
    """

    columns: tuple[str, ...]
    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    def final(self) -> dict[str, float]:
        """Return the measures of the last row, by column."""
        if not len(self.steps):
            return {}
        return dict(zip(self.columns, map(float, self.values[-1]), strict=True))


@dataclass(frozen=True, eq=False)
class Paused(Trial):
    """A trial in the middle of its training, ready to go on in any pack, on any worker.

    ``streak`` counts the stop checks passed in a row and ``level`` the losses already recorded at; ``seconds`` is how long it has been
    trained; ``tensors`` are its parameters and optimizer state as `workloads.engines.lanes.Lanes.tensors` has them, without the lane axis;
    ``trace`` is what it has recorded so far, and ``checkpoints`` its parameters at those that were asked for, by their names. A trial
    with an ``outcome`` has ended, and only measures are yet to be computed; its ``tensors`` are its parameters alone.
    """

    step: int
    streak: int
    level: int
    seconds: float
    initial_loss: float
    tensors: list[NDArray[Any]]
    trace: Trace
    outcome: Outcome | None = None
    checkpoints: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
