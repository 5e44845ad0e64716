"""The table of what trials have come to, among the artifacts of their sweep: a file a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.tracking import layout
from orchestrator.tracking.uris import redact
from orchestrator.tracking.write.traces import parquet_bytes
from workloads.training.results import TrialResult

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class EndedTrial:
    """A trial that has ended, for the how-manieth time in its sweep, and where it is: its run, if it has one, its trace and factors."""

    result: TrialResult
    attempt: int
    run_id: str | None
    trace: str | None
    factors: str | None


def encode_results(trials: Sequence[EndedTrial]) -> bytes:
    """Return one row per trial: what `orchestrator.tracking.layout.RESULT` names, and the final measures; null where there is none."""
    import pyarrow as pa

    finals = [trial.result.trace.final() for trial in trials]
    text = pa.string()
    columns: dict[str, pa.Array[Any]] = {
        "trial_id": pa.array([trial.result.trial_id for trial in trials], text),
        "run_id": pa.array([trial.run_id for trial in trials], text),
        "attempt": pa.array([trial.attempt for trial in trials], pa.int32()),
        "outcome": pa.array([trial.result.outcome.value for trial in trials], text),
        "steps": pa.array([trial.result.steps for trial in trials], pa.int64()),
        "seconds": pa.array([trial.result.seconds for trial in trials], pa.float64()),
        "trace": pa.array([trial.trace for trial in trials], text),
        "factors": pa.array([trial.factors for trial in trials], text),
        "error": pa.array([None if trial.result.error is None else redact(trial.result.error) for trial in trials], text),
    }
    for name in dict.fromkeys(name for final in finals for name in final):
        columns[layout.MEASURE + name] = pa.array([final.get(name) for final in finals], pa.float64())
    return parquet_bytes(pa.table(columns))


def encode_rows(rows: pd.DataFrame) -> bytes:
    """Return rows as `orchestrator.tracking.read.results.ended_trials` has them, with ``trial_id`` as a column, as such a file."""
    import pyarrow as pa

    kinds = {"object": pa.string(), "int64": pa.int64(), "float64": pa.float64()}
    types = {name: kinds[kind] for name, kind in layout.RESULT.items()} | {"attempt": pa.int32()}
    columns = {name: pa.array(rows[name], kind, from_pandas=True) for name, kind in types.items()}
    for name in rows.columns:
        if name.startswith(layout.MEASURE):
            columns[name] = pa.array(rows[name], pa.float64(), from_pandas=True)
    return parquet_bytes(pa.table(columns))
