"""What a sweep found, as tables: its trials, their traces, their failures. Trials that were reused are in them too."""

from __future__ import annotations

import json
import math
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from orchestrator.errors import UsageError
from orchestrator.tracking import layout
from orchestrator.tracking.read.queries import SweepSummary, deleted_runs, runs_by_id, trial_runs
from orchestrator.tracking.store import Store, translated

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow.entities import Run

_SPEC_COLUMN = {"loss": "spec.loss"}
"""The spec's ``loss`` is a kind and the measure's a number: in a table of both, ``loss`` is the number, as in the traces."""


def load_runs(store: Store, sweep: SweepSummary) -> pd.DataFrame:
    """One row per trial, in grid order: ``trial_id, run_id, outcome, steps, seconds``, the spec's dotted keys, the final measures.

    Columns have the spec's types; lists are JSON text, so that rows can be grouped and written anywhere. A trial that has not
    ended has no outcome, steps, seconds or measures (``None`` or missing); one whose run was deleted has the outcome
    ``deleted``, and of the rest only its spec.
    """
    with translated(store.display):
        found = _find(store, sweep)
    trials, runs = found.trials, [found.runs.get(trial_id) for trial_id in found.trials["trial_id"]]
    ended = [run if run is not None and run.info.status in layout.TERMINAL else None for run in runs]
    tags = [run.data.tags if run is not None else {} for run in ended]
    ids = trials["trial_id"]
    outcomes = (layout.DELETED if key in found.deleted else tag.get(layout.OUTCOME) for key, tag in zip(ids, tags, strict=True))
    run_ids = (found.deleted.get(key) if run is None else run.info.run_id for key, run in zip(ids, runs, strict=True))
    columns: dict[str, pd.Series[Any]] = {
        "trial_id": ids,
        "run_id": _objects(run_ids),
        "outcome": _objects(outcomes),
        "steps": _typed([int(tag[layout.STEPS]) if layout.STEPS in tag else None for tag in tags]),
        "seconds": pd.Series([float(tag.get(layout.SECONDS, "nan")) for tag in tags], dtype="float64"),
    }
    specs = [json.loads(spec) for spec in trials["spec"]]
    for key in dict.fromkeys(key for spec in specs for key in spec):
        columns[_SPEC_COLUMN.get(key, key)] = _typed([spec.get(key) for spec in specs])
    metrics = [run.data.metrics if run is not None else {} for run in ended]
    for key in sorted({key for metric in metrics for key in metric}, key=_loss_first):
        columns[key] = _infinite(pd.Series([metric.get(key) for metric in metrics], dtype="float64"))
    return pd.DataFrame(columns)


def load_history(store: Store, sweep: SweepSummary, trials: Collection[str] | None = None) -> pd.DataFrame:
    """Return the traces at full resolution, in grid order: ``trial_id, step``, one column per measure. ``trials`` limits them by id.

    A trial that has not ended, or whose run or trace was deleted, has no rows. Raises `UsageError` for an id that is not in the sweep.
    """
    import pyarrow as pa

    with translated(store.display):
        found = _find(store, sweep)
        listed = found.trials
        order = {trial_id: position for position, trial_id in enumerate(listed["trial_id"])}
        unknown = sorted(set(trials or ()) - set(order))
        if unknown:
            raise UsageError(f"sweep {sweep.sweep_id} has no trial {', '.join(unknown[:5])}")
        files: dict[tuple[str, str], list[str]] = defaultdict(list)
        for trial_id, run in found.runs.items():
            tags = run.data.tags
            if layout.TRACE in tags and run.info.status in layout.TERMINAL and (trials is None or trial_id in trials):
                files[tags[layout.PARENT], tags[layout.TRACE]].append(trial_id)
        traces = (_trace(store, run_id, path, ids) for (run_id, path), ids in files.items())
        tables = [table for table in traces if table is not None]
    if not tables:
        return pd.DataFrame({"trial_id": pd.Series(dtype="object"), "step": pd.Series(dtype="int64")})
    frame: pd.DataFrame = pa.concat_tables(tables, promote_options="default").to_pandas()
    frame["trial_id"] = frame["trial_id"].astype(object)
    # Rows of a trial are in order of steps already, and a stable sort leaves them so.
    frame = frame.sort_values("trial_id", key=lambda ids: ids.map(order), kind="stable", ignore_index=True)
    measures = sorted(frame.columns.drop(["trial_id", "step"]), key=_loss_first)
    return frame[["trial_id", "step", *measures]]


def trial_order(store: Store, parent_run_id: str) -> list[str]:
    """Return the ids of a sweep's trials in the order in which it lists them; none if its list is missing."""
    with translated(store.display):
        if layout.TRIALS_FILE not in {file.path for file in store.client.list_artifacts(parent_run_id)}:
            return []
        return [str(trial_id) for trial_id in _read(store, parent_run_id, layout.TRIALS_FILE)["trial_id"].to_pylist()]


def count_deleted(store: Store, sweep: SweepSummary) -> int:
    """Return how many trials had ended whose runs were deleted."""
    with translated(store.display):
        return len(_find(store, sweep).deleted)


def lost(runs: pd.DataFrame, history: pd.DataFrame | None = None) -> Iterator[str]:
    """Yield in words what was deleted of the trials in ``runs``, and of their traces, if they are given, too."""
    if count := int((runs["outcome"] == layout.DELETED).sum()):
        yield lost_runs(count, len(runs))
    if history is not None and (count := int(without_trace(runs, history).sum())):
        yield f"the traces of {count} of {len(runs)} trials were deleted in MLflow, with the sweep that ran them"


def lost_runs(count: int, trials: int) -> str:
    """Say that the runs of some trials were deleted, and what to do."""
    return (
        f"the runs of {count} of {trials} trials were deleted in MLflow: `mlflow runs restore --run-id ID` brings back what it still has, "
        "and submitting the grid again runs the rest anew"
    )


def without_trace(runs: pd.DataFrame, history: pd.DataFrame) -> pd.Series[Any]:
    """Return which trials have ended as all do that leave a trace, but have none in ``history``."""
    traced = [outcome.value for outcome, status in layout.STATUS.items() if status == "FINISHED"]
    return runs["outcome"].isin(traced) & ~runs["trial_id"].isin(history["trial_id"].unique())


def failures(store: Store, sweep: SweepSummary) -> list[tuple[str, str, str]]:
    """``(trial id, run id, traceback)`` of every failed trial, in grid order."""
    with translated(store.display):
        order = list(_trials(store, sweep)["trial_id"])
        runs = trial_runs(store, sweep)
        failed = [(trial_id, runs[trial_id]) for trial_id in order if trial_id in runs and runs[trial_id].info.status == "FAILED"]
        return [(trial_id, run.info.run_id, _traceback(store, run)) for trial_id, run in failed]


def _trials(store: Store, sweep: SweepSummary) -> pd.DataFrame:
    return _read(store, sweep.parent_run_id, layout.TRIALS_FILE).to_pandas()


@dataclass(frozen=True)
class _Found:
    """The trials of a sweep as it lists them, with their runs, its own or reused ones; of those ``deleted``, the ids as far as known."""

    trials: pd.DataFrame
    runs: dict[str, Run]
    deleted: dict[str, str | None]


def _find(store: Store, sweep: SweepSummary) -> _Found:
    trials = _trials(store, sweep)
    listed = zip(trials["trial_id"], trials["reused_run_id"], strict=True)
    reused = {trial_id: run_id for trial_id, run_id in listed if isinstance(run_id, str)}
    earlier = runs_by_id(store, sweep.experiment_id, reused.values())
    runs = trial_runs(store, sweep) | {trial_id: earlier[run_id] for trial_id, run_id in reused.items() if run_id in earlier}
    missing = [trial_id for trial_id in trials["trial_id"] if trial_id not in runs]
    # Only of a sweep that is complete is it known that a trial without a run had one.
    known = {**deleted_runs(store, sweep), **reused} if missing else reused
    deleted = {key: known.get(key) for key in missing if key in known or sweep.status == "FINISHED"}
    return _Found(trials, runs, deleted)


def _trace(store: Store, run_id: str, path: str, trial_ids: Collection[str]) -> pa.Table | None:
    """Return the traces of some trials; ``None`` if the sweep that recorded them was deleted for good, or the file was."""
    from mlflow.exceptions import MlflowException

    try:
        return _read(store, run_id, path, trial_ids)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _read(store: Store, run_id: str, path: str, trial_ids: Collection[str] | None = None) -> pa.Table:
    import pyarrow as pa
    from pyarrow import parquet

    with tempfile.TemporaryDirectory(prefix="orchestrate-") as folder:
        local = store.client.download_artifacts(run_id, path, folder)
        # Not mapped into memory: the file is gone when this returns.
        table = parquet.read_table(local, memory_map=False, filters=None if trial_ids is None else [("trial_id", "in", list(trial_ids))])
    position = table.schema.get_field_index("trial_id")
    return table.set_column(position, "trial_id", table["trial_id"].cast(pa.string()))


def _traceback(store: Store, run: Run) -> str:
    return store.read(run.info.run_id, layout.ERROR_FILE).decode()


def _objects(values: Iterable[str | None]) -> pd.Series[Any]:
    return pd.Series(list(values), dtype="object")


def _typed(values: list[Any]) -> pd.Series[Any]:
    """Return a column with the type of its values; integers and booleans keep theirs where some are missing."""
    plain = [json.dumps(value) if isinstance(value, list) else value for value in values]
    present = [value for value in plain if value is not None]
    if len(present) == len(plain):
        return pd.Series(plain)
    for kind, dtype in ((bool, "boolean"), (int, "Int64"), (float, "float64")):
        if present and all(type(value) is kind for value in present):
            return pd.Series(plain, dtype=dtype)
    return pd.Series(plain, dtype="object")


def _infinite(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column of metrics with infinity where MLflow, which has no word for it, keeps the largest number there is."""
    return column.where(column.abs() < sys.float_info.max, column * math.inf)


def _loss_first(name: str) -> tuple[bool, list[str | int]]:
    """Sort key: ``loss``, then names in which ``sv_10`` follows ``sv_9``."""
    return name != "loss", [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
