"""Runs for trials that have ended without: those that a claim hangs on, of a sweep of which a sample became runs."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.tracking import layout
from orchestrator.tracking.artifacts import put_files
from orchestrator.tracking.read.queries import SweepSummary
from orchestrator.tracking.read.tables import Found, find_trials, load_history
from orchestrator.tracking.store import Store, translated
from orchestrator.tracking.write.client import run_writer
from orchestrator.tracking.write.results import EndedTrial, encode_results
from orchestrator.tracking.write.run_record import RunRecord, run_record
from workloads.training.results import TrialResult
from workloads.training.trial_state import Outcome, Trace

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run

BATCH = "worst"
"""What files of results of such trials begin with. It comes after all packs' names: of a trial's rows the last one counts."""


@dataclass(frozen=True)
class _Ended:
    """A trial without a run: its place in the sweep, its spec as dotted keys, and what the sweep's tables say of it."""

    place: int
    spec: dict[str, Any]
    row: pd.Series[Any]
    result: TrialResult


def add_runs(store: Store, sweep: SweepSummary, trial_ids: Collection[str], points: int) -> dict[str, str]:
    """Give those of some trials runs that a sweep ran itself and that have none; about ``points`` of each trace are in its history.

    Returns the new runs by trial id. Nothing happens where the sweep is no sample. Raises `orchestrator.errors.TrackingUnavailable`.
    """
    with translated(store.display):
        parent = store.client.get_run(sweep.parent_run_id)
        if parent.data.tags.get(layout.DETAIL) != "sampled":
            return {}
        found = find_trials(store, sweep)
        ended = list(_without_runs(store, sweep, found, set(trial_ids)))
        if not ended:
            return {}
        records = [_record(parent, one, points) for one in ended]
        made = run_writer(store, sweep.experiment_id, again=True).write(records)
        rows = [
            EndedTrial(one.result, int(one.row["attempt"]), run_id, _text(one.row["trace"]), _text(one.row["factors"]))
            for one, run_id in zip(ended, made, strict=True)
        ]
        name = layout.results_path(BATCH, (one.result.trial_id for one in ended))
        put_files(parent.info.artifact_uri, {name: encode_results(rows)}, store.uri)
    return {one.result.trial_id: run_id for one, run_id in zip(ended, made, strict=True)}


def _without_runs(store: Store, sweep: SweepSummary, found: Found, wanted: Collection[str]) -> list[_Ended]:
    rows = found.ended
    own = rows["run_id"].isna() & rows["outcome"].notna() & (rows["parent"] == sweep.parent_run_id) & (rows["outcome"] != layout.DELETED)
    places = np.flatnonzero(own & found.trials["trial_id"].isin(wanted))
    ids = [str(found.trials["trial_id"].iloc[place]) for place in places]
    history = load_history(store, sweep, ids)
    traces = {str(trial_id): rows for trial_id, rows in history.groupby("trial_id", sort=False)}
    ended = []
    for trial_id, place in zip(ids, places, strict=True):
        row, spec = rows.iloc[place], json.loads(found.trials["spec"].iloc[place])
        ended.append(_Ended(int(place), spec, row, _result(trial_id, row, traces, sweep)))
    return ended


def _result(trial_id: str, row: pd.Series[Any], traces: dict[str, pd.DataFrame], sweep: SweepSummary) -> TrialResult:
    """Return a trial as it ended. When it began is not kept: it counts as begun with its sweep."""
    columns: tuple[str, ...] = ("loss",)
    steps, values = np.empty(0, dtype=np.int64), np.empty((0, 1))
    if trial_id in traces:
        # A measure that this trial does not have is missing in all of its rows.
        rows = traces[trial_id].drop(columns=["trial_id"]).dropna(axis="columns", how="all")
        columns = tuple(name for name in rows.columns if name != "step")
        steps, values = rows["step"].to_numpy(np.int64), rows[list(columns)].to_numpy(np.float64)
    began, trace = sweep.started, Trace(columns, steps, values)
    ended = began + float(row["seconds"])
    return TrialResult(trial_id, Outcome(row["outcome"]), int(row["steps"]), began, ended, trace, error=_text(row["error"]))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _record(parent: Run, one: _Ended, points: int) -> RunRecord:
    attempt = int(one.row["attempt"])
    shared = (layout.SWEEP_ID, layout.RECORD, layout.VERSION)
    tags = {layout.PARENT: parent.info.run_id, layout.ATTEMPT: str(attempt)}
    tags |= {name: parent.data.tags[name] for name in shared if name in parent.data.tags}
    tags |= {tag: path for tag, column in ((layout.TRACE, "trace"), (layout.FACTORS, "factors")) if (path := _text(one.row[column]))}
    name = layout.run_id(parent.info.run_id, parent.info.start_time, one.place, one.result.trial_id, attempt)
    return run_record(name, one.result, one.spec, tags, points, json.loads(parent.data.tags.get(layout.VARIES, "[]")))
