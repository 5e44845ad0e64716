"""What the trials of a sweep have come to: from the tables among its artifacts or, of a sweep without them, from its runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from orchestrator.tracking import layout
from orchestrator.tracking.read.runs import experiments_of, search, tag_is
from orchestrator.tracking.store import Store
from orchestrator.tracking.uris import is_http

if TYPE_CHECKING:
    from mlflow.entities import Run

    from orchestrator.grid.traced import Traced

_FEW = 1000
"""Runs that a database is asked for one by one; of more, it is asked for all of the experiments."""


@dataclass(frozen=True)
class Source:
    """Where a finished trial is: the run of the sweep that ran it, and its own run, if it has one."""

    parent_run_id: str
    run_id: str | None


def ended_trials(store: Store, parent: Run, *, measures: bool = True, attempts: bool = False) -> pd.DataFrame:
    """Return the trials that a sweep ran itself and that have ended, one row per trial, by trial id.

    Columns are those of `orchestrator.tracking.layout.RESULT` besides the trial's id; ``gone``, true where the run was deleted, or, of a
    trial without a run, the sweep; and the final ``measures``, by their names in the file. Of several attempts a finished one counts whose
    run is there, else the last; or all of them are there, if ``attempts``.
    """
    frame = _written(store, parent, measures)
    if frame is None:
        frame = from_runs(_own_runs(store, parent))
    for name, kind in layout.RESULT.items():
        if kind == "object":
            frame[name] = texts(frame[name])
    frame["gone"] = _gone(store, parent, frame["run_id"])
    if not attempts:
        worth = pd.DataFrame({"counts": frame["outcome"].isin(FINISHED) & ~frame["gone"], "attempt": frame["attempt"]})
        best = worth.sort_values(["counts", "attempt"], kind="stable").index
        frame = frame.loc[best].drop_duplicates("trial_id", keep="last")
    return frame.set_index("trial_id")


FINISHED = tuple(outcome.value for outcome, status in layout.STATUS.items() if status == "FINISHED")
"""Outcomes of trials that need not be run again."""


def finished(trials: pd.DataFrame) -> pd.DataFrame:
    """Return those of the rows of `ended_trials` that need not be run again."""
    return trials[trials["outcome"].isin(FINISHED) & ~trials["gone"]]


def known_at_ends(store: Store, parent: Run, trials: pd.DataFrame, columns: Collection[str]) -> set[str]:
    """Return those of the rows of `ended_trials` whose traces have one of ``columns`` in no row but the last."""
    artifacts = store.artifacts(parent)
    found: set[str] = set()
    for path, some in trials[trials["trace"].notna()].groupby("trace", sort=False):
        table = artifacts.table(str(path), ["trial_id", *columns], list(some.index))
        if table is not None:
            rows = table.to_pandas()
            before = rows[rows.duplicated("trial_id", keep="last")].set_index("trial_id")
            missing = before.isna().groupby(level=0).all().any(axis="columns")
            found.update(missing.index[missing])
    return found


def not_whole(store: Store, parent: Run, trials: pd.DataFrame, traced: Traced) -> set[str]:
    """Return those of the rows of `ended_trials` that have at their ends only what is ``traced`` of them."""
    at_ends = sorted(traced.columns & set(layout.at_ends(parent.data.tags)))
    by_columns: dict[tuple[str, ...], list[str]] = {}
    for trial_id in trials.index if at_ends else ():
        if needed := tuple(column for column in at_ends if traced.of([column], trial_id)):
            by_columns.setdefault(needed, []).append(trial_id)
    return {key for columns, some in by_columns.items() for key in known_at_ends(store, parent, trials.loc[some], columns)}


def from_runs(runs: Iterable[Run]) -> pd.DataFrame:
    """Return rows as `ended_trials` has them, without ``gone``, from trials' runs that have ended."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        tags = run.data.tags
        if run.info.status not in layout.TERMINAL or layout.TRIAL_ID not in tags:
            continue
        row = {
            "trial_id": tags[layout.TRIAL_ID],
            "run_id": run.info.run_id,
            "attempt": int(tags.get(layout.ATTEMPT, 1)),
            "outcome": tags.get(layout.OUTCOME),
            "steps": int(tags.get(layout.STEPS, 0)),
            "seconds": float(tags.get(layout.SECONDS, "nan")),
            "trace": tags.get(layout.TRACE),
            "factors": tags.get(layout.FACTORS),
            "error": tags.get(layout.ERROR),
        }
        rows.append(row | {layout.MEASURE + key: value for key, value in run.data.metrics.items()})
    frame = pd.DataFrame(rows)
    # None of a missing text is to become a NaN.
    return frame if rows else pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in layout.RESULT.items()})


def _written(store: Store, parent: Run, measures: bool) -> pd.DataFrame | None:
    import pyarrow as pa

    artifacts = store.artifacts(parent)
    names = artifacts.names(layout.RESULTS_FOLDER)
    if not names and int(parent.data.tags.get(layout.FORMAT, 1)) < layout.WITH_RESULTS:
        return None
    tables = [artifacts.table(name, None if measures else list(layout.RESULT)) for name in names]
    there = [table for table in tables if table is not None and len(table)]
    if not there:
        return from_runs([])
    frame: pd.DataFrame = pa.concat_tables(there, promote_options="default").to_pandas()
    return frame


def _own_runs(store: Store, parent: Run) -> Iterator[Run]:
    for deleted in (False, True):
        yield from search(store, experiments_of(parent), tag_is(layout.PARENT, parent.info.run_id), deleted=deleted)


def _gone(store: Store, parent: Run, run_ids: pd.Series[Any]) -> pd.Series[bool]:
    """Return of each trial whether its run was deleted or, if it has none, whether its sweep was."""
    known = run_ids.dropna()
    gone = pd.Series(parent.info.lifecycle_stage == "deleted", index=run_ids.index)
    gone[known.index] = known.isin(_deleted(store, parent, set(known)))
    return gone


def _deleted(store: Store, parent: Run, run_ids: Collection[str]) -> set[str]:
    if not run_ids:
        return set()
    if is_http(store.uri):
        # A server says nothing of a run that was deleted for good; the tables still do.
        found = search(store, experiments_of(parent), tag_is(layout.PARENT, parent.info.run_id), deleted=True)
        return {run.info.run_id for run in found}
    return set(run_ids) - _active(store, experiments_of(parent), run_ids)


def _active(store: Store, experiment_ids: Sequence[str], run_ids: Collection[str]) -> set[str]:
    """Return runs of experiments in a database that were not deleted, those of ``run_ids`` among them."""
    import sqlalchemy
    from mlflow.store.tracking.dbmodels.models import SqlRun

    query = sqlalchemy.select(SqlRun.run_uuid).where(SqlRun.lifecycle_stage == "active")
    few = len(run_ids) <= _FEW
    query = query.where(SqlRun.run_uuid.in_(run_ids) if few else SqlRun.experiment_id.in_(map(int, experiment_ids)))
    engine = sqlalchemy.create_engine(store.uri, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return set(connection.scalars(query))


def vanished(store: Store, reused: Mapping[str, Source]) -> set[str]:
    """Return those of trials, whose sources are given by id, that were deleted since they were found there."""
    lost: set[str] = set()
    for parent_id in {source.parent_run_id for source in reused.values()}:
        run_ids = pd.Series({key: source.run_id for key, source in reused.items() if source.parent_run_id == parent_id}, dtype=object)
        gone = _gone(store, store.client.get_run(parent_id), run_ids)
        lost.update(gone.index[gone])
    return lost


def texts(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column of texts in which ``None`` stands for what is missing."""
    return values.astype(object).where(values.notna(), None)


def sources(trials: pd.DataFrame, parent_run_id: str, wanted: Collection[str] | None = None) -> Mapping[str, Source]:
    """Return where finished trials of a sweep are, by trial id: all of `ended_trials`, or those that are ``wanted``."""
    found = finished(trials)
    if wanted is not None:
        found = found[found.index.isin(wanted)]
    run_ids: Sequence[Any] = found["run_id"].tolist()
    return {key: Source(parent_run_id, run_id) for key, run_id in zip(found.index, run_ids, strict=True)}
