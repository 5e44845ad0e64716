"""What a sweep found, as tables: its trials, their traces, their failures. Trials that were reused are in them too."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

from orchestrator.errors import UsageError
from orchestrator.tracking import layout
from orchestrator.tracking.read.queries import SweepSummary, runs_by_id, trial_runs
from orchestrator.tracking.store import Store, translated

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow.entities import Run

_SPEC_COLUMN = {"loss": "spec.loss"}
"""The spec's ``loss`` is a kind and the measure's a number: in a table of both, ``loss`` is the number, as in the traces."""


def load_runs(store: Store, sweep: SweepSummary) -> pd.DataFrame:
    """One row per trial, in grid order: ``trial_id, run_id, outcome, steps, seconds``, the spec's dotted keys, the final measures.

    Columns have the spec's types; lists are JSON text, so that rows can be grouped and written anywhere. A trial that has not
    ended has no outcome, steps, seconds or measures (``None`` or missing).
    """
    with translated(store.display):
        trials = _trials(store, sweep)
        runs = _runs(store, sweep, trials)
    ended = [run if run is not None and run.info.status in layout.TERMINAL else None for run in map(runs.get, trials["trial_id"])]
    tags = [run.data.tags if run is not None else {} for run in ended]
    columns: dict[str, pd.Series[Any]] = {
        "trial_id": trials["trial_id"],
        "run_id": _objects(run.info.run_id if run is not None else None for run in map(runs.get, trials["trial_id"])),
        "outcome": _objects(tag.get(layout.OUTCOME) for tag in tags),
        "steps": _typed([int(tag[layout.STEPS]) if layout.STEPS in tag else None for tag in tags]),
        "seconds": pd.Series([float(tag.get(layout.SECONDS, "nan")) for tag in tags], dtype="float64"),
    }
    specs = [json.loads(spec) for spec in trials["spec"]]
    for key in dict.fromkeys(key for spec in specs for key in spec):
        columns[_SPEC_COLUMN.get(key, key)] = _typed([spec.get(key) for spec in specs])
    metrics = [run.data.metrics if run is not None else {} for run in ended]
    for key in sorted({key for metric in metrics for key in metric}, key=_loss_first):
        columns[key] = pd.Series([metric.get(key) for metric in metrics], dtype="float64")
    return pd.DataFrame(columns)


def load_history(store: Store, sweep: SweepSummary, trials: Collection[str] | None = None) -> pd.DataFrame:
    """Return the traces at full resolution, in grid order: ``trial_id, step``, one column per measure. ``trials`` limits them by id.

    A trial that has not ended has no rows. Raises `UsageError` for an id that is not in the sweep.
    """
    import pyarrow as pa

    with translated(store.display):
        listed = _trials(store, sweep)
        order = {trial_id: position for position, trial_id in enumerate(listed["trial_id"])}
        unknown = sorted(set(trials or ()) - set(order))
        if unknown:
            raise UsageError(f"sweep {sweep.sweep_id} has no trial {', '.join(unknown[:5])}")
        files: dict[tuple[str, str], list[str]] = defaultdict(list)
        for trial_id, run in _runs(store, sweep, listed).items():
            tags = run.data.tags
            if layout.TRACE in tags and run.info.status in layout.TERMINAL and (trials is None or trial_id in trials):
                files[tags[layout.PARENT], tags[layout.TRACE]].append(trial_id)
        tables = [_read(store, run_id, path, ids) for (run_id, path), ids in files.items()]
    if not tables:
        return pd.DataFrame({"trial_id": pd.Series(dtype="object"), "step": pd.Series(dtype="int64")})
    frame: pd.DataFrame = pa.concat_tables(tables, promote_options="default").to_pandas()
    frame["trial_id"] = frame["trial_id"].astype(object)
    # Rows of a trial are in order of steps already, and a stable sort leaves them so.
    frame = frame.sort_values("trial_id", key=lambda ids: ids.map(order), kind="stable", ignore_index=True)
    measures = sorted(frame.columns.drop(["trial_id", "step"]), key=_loss_first)
    return frame[["trial_id", "step", *measures]]


def failures(store: Store, sweep: SweepSummary) -> list[tuple[str, str, str]]:
    """``(trial id, run id, traceback)`` of every failed trial, in grid order."""
    with translated(store.display):
        order = list(_trials(store, sweep)["trial_id"])
        runs = trial_runs(store, sweep)
        failed = [(trial_id, runs[trial_id]) for trial_id in order if trial_id in runs and runs[trial_id].info.status == "FAILED"]
        return [(trial_id, run.info.run_id, _traceback(store, run)) for trial_id, run in failed]


def _trials(store: Store, sweep: SweepSummary) -> pd.DataFrame:
    return _read(store, sweep.parent_run_id, layout.TRIALS_FILE).to_pandas()


def _runs(store: Store, sweep: SweepSummary, trials: pd.DataFrame) -> dict[str, Run]:
    """Return the run of each trial that has one: the sweep's own, or the reused one."""
    reused = {
        trial_id: run_id for trial_id, run_id in zip(trials["trial_id"], trials["reused_run_id"], strict=True) if isinstance(run_id, str)
    }
    runs = trial_runs(store, sweep)
    earlier = runs_by_id(store, sweep.experiment_id, reused.values())
    return runs | {trial_id: earlier[run_id] for trial_id, run_id in reused.items() if run_id in earlier}


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


def _loss_first(name: str) -> tuple[bool, list[str | int]]:
    """Sort key: ``loss``, then names in which ``sv_10`` follows ``sv_9``."""
    return name != "loss", [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
