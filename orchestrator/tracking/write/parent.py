"""What a writer is told about a sweep before its first trial ends."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.storage.detail import Detail
from orchestrator.tracking import layout
from orchestrator.tracking.read.results import Source
from workloads.trial import TrialSpec


def new_sweep_id() -> str:
    """Return a short id that no other sweep has: 8 hexadecimal digits."""
    return uuid.uuid4().hex[:8]


def digest_of(trial_ids: Iterable[str]) -> str:
    """Says which trials a sweep has, in whatever order."""
    return layout.digest(" ".join(sorted(trial_ids)))


@dataclass(frozen=True)
class TrialRow:
    """One trial of a sweep, in grid order: in which pack it runs, or where it is, finished, if it is reused."""

    trial_id: str
    spec: TrialSpec
    pack: str | None = None
    reused: Source | None = None


@dataclass(frozen=True)
class SweepInfo:
    """A sweep as it is submitted. ``files`` are put among its artifacts as they are: the plan, and users' code that its trials need.

    ``record`` says what is recorded and when: ``{"points": ..., "steps": ..., "measures": [...]}``. ``tags`` are put on the parent run as
    they are, among them which keys trials differ in. ``detail`` says which trials become runs; of the trace of such a one
    ``history_points`` rows become MLflow's history; all of it is in the parquet. A sweep that is taken up for the n-th ``attempt`` has a
    ``parent_run_id`` already, and perhaps trials that failed in it; ``attempts`` says how often those that are run again will have been.
    """

    experiment: str
    sweep_id: str
    grid_text: str
    files: Mapping[str, bytes]
    trials: Sequence[TrialRow]
    record: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    history_points: int = 30
    detail: Detail = field(default_factory=Detail)
    parent_run_id: str | None = None
    attempt: int = 1
    attempts: Mapping[str, int] = field(default_factory=dict)

    @property
    def varying(self) -> tuple[str, ...]:
        """The keys that trials differ in, by which their runs are called."""
        return tuple(json.loads(self.tags.get(layout.VARIES, "[]")))

    @property
    def digest(self) -> str:
        """Says which trials the sweep has, in whatever order."""
        return digest_of(trial.trial_id for trial in self.trials)

    @property
    def reused(self) -> int:
        """How many trials are taken from earlier sweeps."""
        return sum(trial.reused is not None for trial in self.trials)
