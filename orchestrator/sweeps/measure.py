"""Measures that a sweep did not record, computed from the final factors of its trials."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from orchestrator.analysis.results import Results
from orchestrator.errors import UsageError
from orchestrator.grid.quoting import nearest
from orchestrator.grid.references import given, undeclared
from orchestrator.sweeps.resume import grid_of
from orchestrator.tracking.read.factors import load_factors
from orchestrator.tracking.read.tables import match_trials
from workloads import measures
from workloads.training.trial_state import Outcome

if TYPE_CHECKING:
    from orchestrator.storage.base import Storage
    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store
    from workloads.training.references import Reference
    from workloads.trial import TrialSpec


def measure(
    store: Store,
    storage: Storage,
    sweep: SweepSummary,
    names: Sequence[str],
    trials: Collection[str] | None = None,
    modules: Sequence[str] = (),
    references: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Return a row for each trial of a sweep that has factors, or for each of ``trials``: ``trial_id``, and the columns of the measures.

    ``references`` are arrays that measures are against, ``FILE.npz:ARRAY`` by their names, beside those that the grid names. Where a
    measure is not defined for a trial it is missing. Raises `UsageError` for a measure that is unknown, or defined for no trial, or a
    reference that cannot be read, and what `grid_of` and `load_factors` raise.
    """
    grid = grid_of(store, storage, sweep, modules, for_work=True)
    specs = {trial.trial_id: trial.spec for trial in grid.trials}
    # Of trials that share their sections one is enough to know what is defined.
    distinct = list({spec.sections: spec for spec in specs.values()}.values())
    arrays, contents = given(references or {}, distinct, Path())
    arrays = {**grid.record.references, **arrays}
    for name in names:
        _check(name, distinct, arrays)
    from workloads.training.afterwards import measure_kept

    rows = dict(measure_kept(names, load_factors(store, sweep, trials), specs, {**grid.files.contents, **contents}, arrays))
    columns = dict.fromkeys(column for name in names for spec in distinct for column in _columns(name, spec))
    order = [trial_id for trial_id in specs if trial_id in rows]
    numbers = {column: pd.Series([rows[trial_id].get(column, math.nan) for trial_id in order], dtype="float64") for column in columns}
    return pd.DataFrame({"trial_id": pd.Series(order, dtype="object"), **numbers})


def measured_results(
    store: Store,
    storage: Storage,
    sweep: SweepSummary,
    names: Sequence[str],
    where: str | None = None,
    trials: str | Collection[str] | None = None,
    modules: Sequence[str] = (),
    references: Mapping[str, str] | None = None,
) -> tuple[Results, list[str]]:
    """Return the trials of a sweep that have factors, those that meet a condition and are of ``trials``, with measures beside the rest.

    Also return the new columns. Raises what `measure` raises, and `UsageError` for a condition on what the runs do not have.
    """
    results = Results.load(store, [sweep])
    chosen = results.ended & (results.runs["outcome"] != Outcome.FAILED.value).to_numpy()
    if where is not None:
        chosen &= results.condition(results.read_condition(where))
    if trials is not None:
        chosen &= results.runs["trial_id"].isin(match_trials(list(results.runs["trial_id"]), trials)).to_numpy()
    runs = results.runs[chosen]
    measured = measure(store, storage, sweep, names, list(runs["trial_id"]), modules, references)
    columns = list(measured.columns.drop("trial_id"))
    # What was recorded, too, is the same.
    merged = runs.drop(columns=[column for column in columns if column in runs]).merge(measured, on="trial_id")
    return Results(merged, lambda: results.history), columns


def _check(name: str, specs: Iterable[TrialSpec], arrays: Mapping[str, Reference] | None = None) -> None:
    """Raise `UsageError` unless a measure is one that can be computed afterwards for one of ``specs``."""
    if measures.find(name) is None:
        raise UsageError(f"unknown measure {name}{nearest(name, [row.shown for row in measures.MEASURES])}")
    if name == "loss":
        raise UsageError("loss is in every table of trials: factors alone say nothing of it")
    if measures.is_state(name):
        raise UsageError(f"{name} is known in training only: factors alone say nothing of it; `orchestrate rerun` records it")
    reasons = [measures.undefined(name, spec) for spec in specs]
    if all(reasons):
        raise UsageError(f"{name} {reasons[0]}")
    if missing := undeclared(name, arrays or {}):
        raise UsageError(missing)


def _columns(name: str, spec: TrialSpec) -> tuple[str, ...]:
    return () if measures.undefined(name, spec) else measures.column_names(name, spec)
