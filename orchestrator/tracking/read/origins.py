"""From which sweeps a sweep has the trials that it reuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.tracking import layout
from orchestrator.tracking.read.tables import run_of
from orchestrator.tracking.store import Store, translated

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class Origin:
    """A sweep of which another reuses some ``trials``. Of one that is gone for good there is no ``sweep_id``."""

    trials: int
    sweep_id: str = ""
    experiment: str = ""
    experiment_id: str = ""
    run_id: str = ""


def origins(store: Store, parent: Run) -> list[Origin]:
    """Return the sweeps whose trials that of the run ``parent`` reuses, the one with most first."""
    with translated(store.display):
        table = store.artifacts(parent).table(layout.TRIALS_FILE, ["trial_id", "reused_from", "reused_run_id"])
        columns: Mapping[str, Sequence[str | None]] = {} if table is None else table.to_pydict()
        there = columns.get("reused_from") or [None] * len(columns.get("reused_run_id", ()))
        # What was written by an earlier version knows the runs of trials alone.
        runs = columns.get("reused_run_id") or [None] * len(there)
        counted = Counter(source or "" for source, run in zip(there, runs, strict=True) if source or run)
        return [_origin(store, source, count) for source, count in counted.most_common()]


def _origin(store: Store, run_id: str, trials: int) -> Origin:
    run = run_of(store, run_id)
    if run is None:
        return Origin(trials)
    experiment = store.client.get_experiment(run.info.experiment_id)
    return Origin(trials, run.data.tags.get(layout.SWEEP_ID, ""), experiment.name, run.info.experiment_id, run_id)
