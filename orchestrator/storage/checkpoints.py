"""Checkpoints of packs: where their trials stand, written every so often, so that whoever dies costs little.

A pack's checkpoint is one file, which its next one replaces. A trial that changed packs may be in several files: the one in which
it is furthest counts, as its numbers do not depend on where they were computed.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import StorageUnavailable, UsageError
from orchestrator.options import CHECKPOINT_SECONDS
from orchestrator.storage.base import Storage, open_storage
from orchestrator.storage.trial_file import CorruptRows, Row, decode, encode
from workloads.training.trial_state import Outcome, Paused
from workloads.trial import Trial

MOST, CHEAP = 0.02, 0.005
"""The part of its time that a worker spends on checkpoints at most; and the part up to which it makes them more often than asked for."""
SOONEST = 2.0
_OUTCOMES = tuple(Outcome)
_NONE = -1
_AT = " at "
_FOLDER = "checkpoints"


def new_key() -> str:
    """Return a name that no other checkpoint has."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class Checkpointing:
    """Where and how often a worker keeps checkpoints. ``record`` says what traces hold (`orchestrator.tracking.layout.recording_tag`).

    ``url`` is a storage, ``folder`` the sweep's in it, ``marker`` a file there by which a worker on another machine sees whether it has
    come to the same storage.
    """

    url: str
    folder: str
    record: str
    marker: str
    every: float = CHECKPOINT_SECONDS

    def save(self, key: str, content: bytes) -> None:
        """Replace the checkpoint of a pack by ``content``, from `encoded`. Raises `StorageUnavailable`."""
        Checkpoints(open_storage(self.url), self.folder, self.record).save(key, content)

    def encoded(self, trials: Sequence[Paused]) -> bytes:
        """Return a checkpoint of ``trials``."""
        return _encoded(trials, self.record)

    def shared(self) -> bool:
        """Return whether this machine sees what the sweep's driver has written: not where it has no library for such a storage, or where
        Ray is another user's, whom the folder is closed to. Raises `StorageUnavailable`."""
        try:
            return open_storage(self.url).read(f"{self.folder}/{self.marker}") is not None
        except UsageError:
            return False
        except StorageUnavailable as error:
            if isinstance(error.__cause__, PermissionError):
                return False
            raise


class Checkpoints:
    """The checkpoints of one sweep. All methods raise `orchestrator.errors.StorageUnavailable`."""

    def __init__(self, storage: Storage, folder: str, record: str) -> None:
        self.storage, self.folder, self.record = storage, folder, record

    def save(self, key: str, content: bytes) -> None:
        """Replace the checkpoint of a pack by ``content``, from `encoded`."""
        self.storage.write(self._name(key), content)

    def encoded(self, trials: Sequence[Paused]) -> bytes:
        """Return a checkpoint of ``trials``."""
        return _encoded(trials, self.record)

    def load(self, key: str, trials: Mapping[str, Trial]) -> dict[str, Paused]:
        """Where those of ``trials``, by id, stand that the checkpoint of a pack has. Nothing of one that is missing or damaged."""
        return self._decoded(self.storage.read(self._name(key)), trials)

    def load_all(self, trials: Mapping[str, Trial]) -> dict[str, Paused]:
        """Where those of ``trials`` stand that any checkpoint has."""
        states: dict[str, Paused] = {}
        for name in self.storage.names(f"{self.folder}/{_FOLDER}"):
            furthest(states, self._decoded(self.storage.read(name), trials).values())
        return states

    def remove(self, key: str) -> None:
        """Forget the checkpoint of a pack."""
        self.storage.remove(self._name(key))

    def remove_finished(self, finished: Callable[[str], bool]) -> int:
        """Forget the checkpoints whose trials are all ``finished``, by their ids. Returns how many are left."""
        left = 0
        for name in self.storage.names(f"{self.folder}/{_FOLDER}"):
            content = self.storage.read(name)
            try:
                rows = [] if content is None else decode(content)[0]
            except CorruptRows:
                rows = []
            if all(finished(row.trial_id) for row in rows):
                self.storage.remove(name)
            else:
                left += 1
        return left

    def _name(self, key: str) -> str:
        return f"{self.folder}/{_FOLDER}/{key}.safetensors"

    def _decoded(self, content: bytes | None, trials: Mapping[str, Trial]) -> dict[str, Paused]:
        if content is None:
            return {}
        try:
            rows, about = decode(content)
        except CorruptRows:
            # Its trials begin anew.
            return {}
        if about.get("record") != self.record:
            return {}
        states = (_paused(row, trials[row.trial_id]) for row in rows if row.trial_id in trials)
        return {state.trial_id: state for state in states if state is not None}


class Pace:
    """When a worker makes its next checkpoint: every so many seconds, but never so often that it costs more than `MOST`."""

    def __init__(self, every: float, now: float) -> None:
        self.every, self.due = every, now + min(every, SOONEST)

    def made(self, began: float, ended: float) -> None:
        """Take note of a checkpoint that was made in the time between."""
        cost = ended - began
        self.due = ended + max(cost / MOST, min(self.every, max(SOONEST, cost / CHEAP)))


def furthest(states: dict[str, Paused], more: Iterable[Paused]) -> None:
    """Add ``more`` to ``states``, by trial id; of two the one counts that is further."""
    for state in more:
        known = states.get(state.trial_id)
        if known is None or _progress(state) > _progress(known):
            states[state.trial_id] = state


def _encoded(trials: Sequence[Paused], record: str) -> bytes:
    return encode([_row(trial) for trial in trials], {"record": record})


def _progress(state: Paused) -> tuple[int, bool]:
    return state.step, state.outcome is not None


def _row(trial: Paused) -> Row:
    numbers = {
        "step": trial.step,
        "streak": trial.streak,
        "level": trial.level,
        "seconds": float(trial.seconds),
        "initial_loss": float(trial.initial_loss),
        "outcome": _NONE if trial.outcome is None else _OUTCOMES.index(trial.outcome),
    }
    arrays = {str(n): tensor for n, tensor in enumerate(trial.tensors)}
    for name, factors in trial.checkpoints.items():
        arrays |= {f"{n}{_AT}{name}": array for n, array in enumerate(factors)}
    return Row(trial.trial_id, numbers, arrays, trial.trace)


def _paused(row: Row, trial: Trial) -> Paused | None:
    """Return the trial where ``row`` has it; ``None`` if the row does not fit it."""
    numbers = row.numbers
    tensors = [array for name, array in row.arrays.items() if _AT not in name]
    checkpoints: dict[str, list[NDArray[Any]]] = {}
    for name, array in row.arrays.items():
        if _AT in name:
            checkpoints.setdefault(name.partition(_AT)[2], []).append(np.array(array))
    shapes = [tuple(shape) for shape in trial.spec.factor_shapes.values()]
    if [t.shape for t in tensors[: len(shapes)]] != shapes or not math.isfinite(numbers["seconds"]):
        return None
    outcome = int(numbers["outcome"])
    return Paused(
        trial.trial_id,
        trial.spec,
        step=int(numbers["step"]),
        streak=int(numbers["streak"]),
        level=int(numbers["level"]),
        seconds=numbers["seconds"],
        initial_loss=numbers["initial_loss"],
        tensors=[np.array(tensor) for tensor in tensors],
        trace=row.trace,
        outcome=None if outcome == _NONE else _OUTCOMES[outcome],
        checkpoints=checkpoints,
    )
