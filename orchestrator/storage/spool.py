"""Trials that have ended and wait until MLflow has them: files in the order of their making, each one batch.

A batch says all that is needed to write its runs, so that any process may deliver it, also after the one that made it is gone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from orchestrator.errors import StorageUnavailable
from orchestrator.storage.base import Storage
from orchestrator.storage.detail import Detail
from orchestrator.storage.trial_file import CorruptRows, Row, decode, encode
from workloads.training.results import TrialResult
from workloads.training.trial_state import Outcome

_FOLDER = "spool"
_AT = " at "


@dataclass(frozen=True)
class Batch:
    """Trials of one pack that have ended, with all that MLflow is to know of them.

    ``specs`` are flat, with dotted keys, by trial id; ``tags`` are put on every run; of each trace ``points`` rows become history;
    ``attempts`` says of trials that had ended in this sweep before, and were run again, how often this now is; ``places`` are those of
    trials in their sweep, ``detail`` says which become runs, and ``varying`` by which keys those are called.
    """

    pack: str
    results: tuple[TrialResult, ...]
    specs: Mapping[str, Mapping[str, Any]]
    tags: Mapping[str, str] = field(default_factory=dict)
    points: int = 30
    attempts: Mapping[str, int] = field(default_factory=dict)
    places: Mapping[str, int] = field(default_factory=dict)
    detail: Detail = field(default_factory=Detail)
    varying: tuple[str, ...] = ()

    def encoded(self) -> bytes:
        """Return the batch as bytes."""
        about = {"pack": self.pack, "tags": json.dumps(dict(self.tags)), "points": str(self.points)}
        about["varying"] = json.dumps(self.varying)
        about["detail"] = json.dumps([self.detail.runs, self.detail.trials])
        about["attempts"] = json.dumps({r.trial_id: self.attempts[r.trial_id] for r in self.results if r.trial_id in self.attempts})
        rows = [_row(result, self.specs[result.trial_id], self.places.get(result.trial_id, 0)) for result in self.results]
        return encode(rows, about)

    @classmethod
    def decoded(cls, content: bytes) -> Batch:
        """Return the batch that gave these bytes. Raises `CorruptRows`."""
        rows, about = decode(content)
        try:
            return cls(
                about["pack"],
                tuple(_result(row) for row in rows),
                {row.trial_id: json.loads(row.texts["spec"]) for row in rows},
                json.loads(about["tags"]),
                int(about["points"]),
                json.loads(about["attempts"]),
                {row.trial_id: int(row.numbers["place"]) for row in rows},
                Detail(*json.loads(about["detail"])),
                tuple(json.loads(about.get("varying", "[]"))),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise CorruptRows(f"is not a batch of trials: {error}") from error


class Spool:
    """The batches of one sweep that wait. All methods raise `StorageUnavailable`."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self.storage, self._folder = storage, f"{folder}/{_FOLDER}"
        self._began, self._made = time.time_ns(), 0
        self._sizes: dict[str, int] = {}

    @property
    def bytes(self) -> int:
        """What the batches take that were added here and have not been removed."""
        return sum(self._sizes.values())

    def names(self) -> list[str]:
        """Return the batches that wait, in the order in which they were added."""
        return self.storage.names(self._folder)

    def add(self, batch: Batch) -> str:
        """Keep a batch durably. Returns its name."""
        self._made += 1
        # Two processes never write to one spool at once, but one may go on where another has ended.
        name = f"{self._folder}/{self._began:020d}-{self._made:08d}.safetensors"
        content = batch.encoded()
        self.storage.write(name, content)
        self._sizes[name] = len(content)
        return name

    def read(self, name: str) -> Batch:
        """Return a batch by its name. Raises `StorageUnavailable` for one that is not there or is damaged."""
        content = self.storage.read(name)
        if content is None:
            raise StorageUnavailable(f"{self.storage.url}/{name} has vanished: somebody else has delivered or removed it")
        try:
            return Batch.decoded(content)
        except CorruptRows as error:
            raise StorageUnavailable(f"{self.storage.url}/{name} {error}; remove it, and its trials will be run again") from error

    def remove(self, name: str) -> None:
        """Forget a batch that MLflow has."""
        self.storage.remove(name)
        self._sizes.pop(name, None)


def _row(result: TrialResult, spec: Mapping[str, Any], place: int) -> Row:
    numbers = {
        "place": place,
        "outcome": list(Outcome).index(result.outcome),
        "steps": result.steps,
        "started": float(result.started),
        "ended": float(result.ended),
    }
    texts = {"spec": json.dumps(spec)} | ({} if result.error is None else {"error": result.error})
    arrays = dict(result.factors)
    for name, factors in result.checkpoints.items():
        arrays |= {f"{factor}{_AT}{name}": array for factor, array in factors.items()}
    return Row(result.trial_id, numbers, arrays, result.trace, texts)


def _result(row: Row) -> TrialResult:
    checkpoints: dict[str, dict[str, NDArray[Any]]] = {}
    for key, array in row.arrays.items():
        factor, kept, name = key.partition(_AT)
        if kept:
            checkpoints.setdefault(name, {})[factor] = array
    return TrialResult(
        row.trial_id,
        list(Outcome)[int(row.numbers["outcome"])],
        int(row.numbers["steps"]),
        row.numbers["started"],
        row.numbers["ended"],
        row.trace,
        {name: array for name, array in row.arrays.items() if _AT not in name},
        row.texts.get("error"),
        checkpoints,
    )
