"""What a driver learns of a pack besides what `workloads.training.results` has: what was saved, and what went wrong. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from workloads.training import results
from workloads.trial import Trial


@dataclass(frozen=True)
class Saved:
    """A checkpoint of ``trials`` trials was made: by the worker or, where it cannot reach the storage, with the ``content`` to be saved."""

    trials: int
    content: bytes | None = None


@dataclass(frozen=True)
class Broken:
    """An exception ended the training of a pack; ``error`` is its traceback. With ``code`` it is not the pack that is to blame: users'
    code cannot be loaded, and ``error`` says why."""

    error: str
    code: bool = False


class Cause(StrEnum):
    """Why trials have not come out of a pack."""

    EXCEPTION = "an exception"
    """Would happen again to the same trials."""
    CRASH = "its worker died"
    MEMORY = "its worker ran out of memory"
    NODE = "its node was lost"
    SHARED = "its cores went to another sweep"
    """Nothing has gone wrong: it was saved before."""


@dataclass(frozen=True)
class Lost:
    """The end of a pack from which the trials ``left``, by id, have not come out."""

    left: Mapping[str, Trial]
    cause: Cause
    error: str


@dataclass(frozen=True)
class Ended:
    """The end of a pack from which all trials have come out, or which was ``stopped``."""

    stopped: bool = False


PackEvent = results.Progress | results.Finished | results.HandedOver | results.Notice | Saved | Lost | Ended
"""What `orchestrator.cluster.pool.Workers.run` yields."""
WorkerEvent = results.Progress | results.Finished | results.HandedOver | results.Notice | Saved | Broken
"""What `orchestrator.execution.worker.Worker.run` yields."""
