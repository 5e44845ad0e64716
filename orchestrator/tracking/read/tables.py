"""What a sweep found, as tables: its trials, their traces, their failures. Trials that were reused are in them too."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from orchestrator.errors import TrackingUnavailable, UsageError
from orchestrator.tracking import layout
from orchestrator.tracking.artifacts import Artifacts
from orchestrator.tracking.read.queries import SweepSummary
from orchestrator.tracking.read.results import ended_trials, finished, from_runs, texts
from orchestrator.tracking.read.runs import runs_by_id
from orchestrator.tracking.store import Store, translated
from workloads.amounts import amount
from workloads.training.trial_state import Outcome

if TYPE_CHECKING:
    from mlflow.entities import Run

REUSE = ("trial_id", "reused_run_id", "reused_from")
"""Columns of a sweep's list of trials that say which of them are other sweeps'."""
_CANDIDATES = 8
"""Trials named in an error message."""
_SPEC_COLUMN = {"loss": "spec.loss"}
"""The spec's ``loss`` is a kind and the measure's a number: in a table of both, ``loss`` is the number, as in the traces."""


def load_runs(store: Store, sweep: SweepSummary) -> pd.DataFrame:
    """One row per trial, in grid order: ``trial_id, run_id, outcome, steps, seconds``, the spec's dotted keys, the final measures.

    Where trials have conditions to stop, ``reason`` says which of ``stop`` has ended each. Columns have the spec's types; lists are JSON
    text, so that rows can be grouped and written anywhere. A trial that has not ended has no outcome, steps, seconds or measures (``None``
    or missing); one whose run was deleted has the outcome ``deleted``, and of the rest only its spec.
    """
    with translated(store.display):
        found = find_trials(store, sweep)
    ended = found.ended
    columns: dict[str, pd.Series[Any]] = {
        "trial_id": found.trials["trial_id"],
        "run_id": texts(ended["run_id"]),
        "outcome": texts(ended["outcome"]),
        "steps": _typed([None if math.isnan(steps) else int(steps) for steps in ended["steps"]]),
        "seconds": ended["seconds"].astype("float64"),
    }
    # In one: it takes half the time, and keys are in memory once.
    specs = json.loads(f"[{','.join(found.trials['spec'])}]")
    for key in dict.fromkeys(key for spec in specs for key in spec):
        columns[_SPEC_COLUMN.get(key, key)] = _typed([spec.get(key) for spec in specs])
    if any("stop.when" in spec or "stop.abort" in spec for spec in specs):
        columns["reason"] = _reasons(specs, ended)
    measures = {name.removeprefix(layout.MEASURE): name for name in ended.columns if name.startswith(layout.MEASURE)}
    for key in sorted(measures, key=_loss_first):
        columns[key] = _infinite(ended[measures[key]].astype("float64"))
    return pd.DataFrame(columns)


def _reasons(specs: Sequence[Mapping[str, Any]], ended: pd.DataFrame) -> pd.Series[Any]:
    """Return which key of ``stop`` has ended each trial, with its value; ``None`` where none has."""
    losses = ended[f"{layout.MEASURE}loss"] if f"{layout.MEASURE}loss" in ended.columns else [math.nan] * len(ended)
    rows = zip(specs, ended["outcome"], ended["steps"], losses, strict=True)
    return texts(pd.Series([_reason(*row) for row in rows], dtype=object))


def _reason(spec: Mapping[str, Any], outcome: str | None, steps: float, loss: float) -> str | None:
    reached = "stop.loss" if loss <= spec.get("stop.loss", -math.inf) else "stop.when"
    used_up = "stop.steps" if steps >= spec.get("stop.steps", math.inf) else "stop.seconds"
    ended_by = {Outcome.CONVERGED.value: reached, Outcome.ABORTED.value: "stop.abort", Outcome.EXHAUSTED.value: used_up}
    key = ended_by.get(outcome or "", "")
    return f"{key}: {spec[key]}" if key in spec else None


def load_history(store: Store, sweep: SweepSummary, trials: str | Collection[str] | None = None) -> pd.DataFrame:
    """Return the traces at full resolution, in grid order: ``trial_id, step``, one column per measure. ``trials`` limits them.

    A trial that has not ended, or whose run or trace was deleted, has no rows. Raises what `match_trials` raises.
    """
    with translated(store.display):
        found = find_trials(store, sweep, measures=False)
    return _traces(store, found, None if trials is None else match_trials(list(found.trials["trial_id"]), trials))


def load_runs_of(store: Store, sweeps: Sequence[SweepSummary]) -> pd.DataFrame:
    """Return `load_runs` of sweeps, with the column ``sweep``. Of a trial that is in several, a run that has ended counts, or else may."""
    frames = [load_runs(store, sweep).assign(sweep=sweep.sweep_id) for sweep in sweeps]
    if len(frames) == 1:
        return frames[0]
    runs: pd.DataFrame = pd.concat(frames, ignore_index=True)
    worth = runs["outcome"].map(lambda outcome: 2 if outcome == layout.DELETED else int(outcome is None))
    once: pd.DataFrame = runs.iloc[worth.argsort(kind="stable")].drop_duplicates("trial_id").sort_index()
    return once.reset_index(drop=True)


def load_history_of(store: Store, sweeps: Sequence[SweepSummary], trials: Collection[str] | None = None) -> pd.DataFrame:
    """Return `load_history` of sweeps, of each trial once; ``trials`` are ids."""
    with translated(store.display):
        found = [find_trials(store, sweep, measures=False) for sweep in sweeps]
    frames = [_traces(store, some, trials) for some in found]
    if len(frames) == 1:
        return frames[0]
    # In every sweep that has a trial its trace is the same.
    history: pd.DataFrame = pd.concat(frames, ignore_index=True).drop_duplicates(["trial_id", "step"])
    return history.reset_index(drop=True)


def _traces(store: Store, found: Found, trials: Collection[str] | None) -> pd.DataFrame:
    """Return the traces of what was found, or of those of it that are in ``trials``."""
    import pyarrow as pa

    listed = found.trials["trial_id"]
    traced = found.ended["trace"].notna() & (found.ended["outcome"] != layout.DELETED)
    if trials is not None:
        traced &= listed.isin(trials)
    files = found.ended[traced].assign(trial_id=listed[traced]).groupby(["parent", "trace"], sort=False)["trial_id"]
    with translated(store.display):
        traces = (found.artifacts(store, str(parent)).table(str(path), None, ids) for (parent, path), ids in files)
        tables = [table for table in traces if table is not None]
    if not tables:
        return pd.DataFrame({"trial_id": pd.Series(dtype="object"), "step": pd.Series(dtype="int64")})
    frame: pd.DataFrame = pa.concat_tables(tables, promote_options="default").to_pandas()
    # Rows of a trial are in order of steps already, and a stable sort leaves them so.
    places = pd.Index(listed).get_indexer(frame["trial_id"])
    frame = frame.iloc[places.argsort(kind="stable")].reset_index(drop=True)
    frame["trial_id"] = frame["trial_id"].astype(object)
    measures = sorted(frame.columns.drop(["trial_id", "step"]), key=_loss_first)
    return frame[["trial_id", "step", *measures]]


def step_budgets(store: Store, sweep: SweepSummary) -> set[int]:
    """Return the values of ``stop.steps`` of a sweep's trials; none if its list is missing."""
    with translated(store.display):
        table = store.artifacts_of(sweep.parent_run_id).table(layout.TRIALS_FILE, ["trial_id", "spec"])
    if table is None:
        return set()
    # Without reading all of every spec, of which there may be a hundred thousand.
    found = table["spec"].to_pandas().str.extract(r'"stop\.steps": (\d+)', expand=False).dropna().unique()
    return {int(steps) for steps in found}


def match_trials(known: Collection[str], references: str | Collection[str]) -> list[str]:
    """Return the trials of ``known`` that are meant by ids, or by unique prefixes of them.

    Raises `UsageError` for what begins no id, or several.
    """
    ids, found = set(known), []
    for reference in [references] if isinstance(references, str) else references:
        matching = [reference] if reference in ids else [trial for trial in known if reference and trial.startswith(reference)]
        if not matching:
            raise UsageError(f"there is no trial {reference!r}: `orchestrate runs` lists those of a sweep")
        if len(matching) > 1:
            more = f" and {len(matching) - _CANDIDATES} more" if len(matching) > _CANDIDATES else ""
            raise UsageError(f"{reference!r} begins the ids of several trials: {', '.join(matching[:_CANDIDATES])}{more}")
        found += matching
    return found


def listed_specs(store: Store, sweep: SweepSummary) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the trials of a sweep, each with its spec by dotted keys; none if its list is missing."""
    with translated(store.display):
        table = store.artifacts_of(sweep.parent_run_id).table(layout.TRIALS_FILE, ["trial_id", "spec"])
    if table is not None:
        specs = json.loads(f"[{','.join(map(str, table['spec'].to_pylist()))}]")
        yield from zip(table["trial_id"].to_pylist(), specs, strict=True)


def trial_order(store: Store, parent_run_id: str) -> list[str]:
    """Return the ids of a sweep's trials in the order in which it lists them; none if its list is missing."""
    with translated(store.display):
        table = store.artifacts_of(parent_run_id).table(layout.TRIALS_FILE, ["trial_id"])
    return [] if table is None else [str(trial_id) for trial_id in table["trial_id"].to_pylist()]


def reused_trials(store: Store, parent_run_id: str) -> set[str]:
    """Return the ids of the trials of a sweep that it lists as other sweeps'; none if its list is missing."""
    with translated(store.display):
        table = store.artifacts_of(parent_run_id).table(layout.TRIALS_FILE, REUSE)
    if table is None:
        return set()
    trials = table.to_pandas()
    return set(trials["trial_id"][is_reused(trials)])


def is_reused(trials: pd.DataFrame) -> pd.Series[bool]:
    """Return of each trial in a sweep's list whether it is another sweep's. Older lists say which run it is, and not of which sweep."""
    runs = trials["reused_run_id"].notna()
    return runs | trials["reused_from"].notna() if "reused_from" in trials else runs


def count_deleted(store: Store, sweep: SweepSummary) -> int:
    """Return how many trials had ended whose runs were deleted."""
    with translated(store.display):
        return int((find_trials(store, sweep, measures=False).ended["outcome"] == layout.DELETED).sum())


def lost(runs: pd.DataFrame, history: pd.DataFrame | None = None) -> Iterator[str]:
    """Yield in words what was deleted of the trials in ``runs``, and of their traces, if they are given, too."""
    if count := int((runs["outcome"] == layout.DELETED).sum()):
        yield lost_runs(count, len(runs))
    if history is not None and (count := int(without_trace(runs, history).sum())):
        yield f"the traces of {count:,} of {amount(len(runs), 'trial')} were deleted in MLflow, with the sweep that ran them"


def lost_runs(count: int, trials: int) -> str:
    """Say that the runs of some trials were deleted, and what to do."""
    return (
        f"the runs of {count:,} of {amount(trials, 'trial')} were deleted in MLflow: `mlflow runs restore --run-id ID` brings back what it "
        "still has, and submitting the grid again runs the rest anew"
    )


def without_trace(runs: pd.DataFrame, history: pd.DataFrame) -> pd.Series[Any]:
    """Return which trials have ended as all do that leave a trace, but have none in ``history``."""
    traced = [outcome.value for outcome, status in layout.STATUS.items() if status == "FINISHED"]
    return runs["outcome"].isin(traced) & ~runs["trial_id"].isin(history["trial_id"].unique())


def failures(store: Store, sweep: SweepSummary) -> list[tuple[str, str, str]]:
    """``(trial id, run id, traceback)`` of every failed trial, in grid order; without a run of its own, its sweep's."""
    with translated(store.display):
        found = find_trials(store, sweep, measures=False)
    failed = found.ended["outcome"] == Outcome.FAILED.value
    rows = zip(found.trials["trial_id"][failed], texts(found.ended["run_id"][failed]), texts(found.ended["error"][failed]), strict=True)
    return [(trial_id, sweep.parent_run_id if run_id is None else run_id, error or "") for trial_id, run_id, error in rows]


def _trials(store: Store, parent: Run) -> pd.DataFrame:
    """Return the trials of a sweep as it lists them. Raises `TrackingUnavailable` if the list is missing."""
    table = store.artifacts(parent).table(layout.TRIALS_FILE)
    if table is None:
        raise TrackingUnavailable(f"{layout.TRIALS_FILE} of the sweep with the run {parent.info.run_id} is missing in {store.display}")
    frame: pd.DataFrame = table.to_pandas()
    return frame if "reused_from" in frame else frame.assign(reused_from=None)


@dataclass(frozen=True)
class Found:
    """The trials of a sweep as it lists them and, row by row, what they have come to, wherever: as
    `orchestrator.tracking.read.results.ended_trials` has it, with the outcome ``deleted`` for those that are gone, and ``parent``, the run
    among whose artifacts a trace is. ``parents`` are such runs by id.
    """

    trials: pd.DataFrame
    ended: pd.DataFrame
    parents: Mapping[str, Run]

    def artifacts(self, store: Store, parent: str) -> Artifacts:
        """Return the artifacts of one of ``parents``."""
        return store.artifacts(self.parents[parent])


def find_trials(store: Store, sweep: SweepSummary, *, measures: bool = True) -> Found:
    """Return the trials of a sweep with what they have come to, and their final ``measures``. Raises what MLflow's client raises."""
    own = store.client.get_run(sweep.parent_run_id)
    trials, parents = _trials(store, own), {sweep.parent_run_id: own}
    reused = trials[is_reused(trials)]
    mine = ended_trials(store, own, measures=measures)
    # It may have failed at what another sweep has finished since.
    mine = mine[~mine.index.isin(reused["trial_id"]) | mine.index.isin(finished(mine).index)]
    parts = [mine.assign(parent=sweep.parent_run_id)]
    # Those that other sweeps ran, sweep by sweep.
    for source, some in reused.groupby(reused["reused_from"].fillna("")):
        parent = run_of(store, str(source))
        if parent is not None:
            parents[str(source)] = parent
            theirs = ended_trials(store, parent, measures=measures)
            parts.append(theirs[theirs.index.isin(some["trial_id"])].assign(parent=str(source)))
        left = some[~some["trial_id"].isin(parts[-1].index)] if parent is not None else some
        parts.append(_by_run(store, sweep.experiment_id, left, parents))
    known = pd.concat([part for part in parts if len(part)] or parts[:1])
    ended = known[~known.index.duplicated()].reindex(trials["trial_id"]).reset_index(drop=True)
    # Of what was deleted the ids alone are left.
    gone = ended["gone"].eq(True)
    for name in ended.columns.drop(["run_id", "parent"]):
        ended[name] = ended[name].mask(gone)
    ended["outcome"] = ended["outcome"].astype(object).mask(gone, layout.DELETED)
    return Found(trials, ended, parents)


def _by_run(store: Store, experiment_id: str, trials: pd.DataFrame, parents: dict[str, Run]) -> pd.DataFrame:
    """Return what trials have come to whose sweep was deleted for good, from their runs; ``gone`` are those without one."""
    runs = runs_by_id(store, [experiment_id], trials["reused_run_id"].dropna())
    there = from_runs(runs.values()).set_index("trial_id").assign(gone=False)
    there["parent"] = [runs[run_id].data.tags.get(layout.PARENT, "") for run_id in there["run_id"]]
    for parent in set(there["parent"]) - set(parents):
        run = run_of(store, parent)
        if run is not None:
            parents[parent] = run
    there.loc[~there["parent"].isin(list(parents)), "trace"] = None
    lost = trials[~trials["trial_id"].isin(there.index)].set_index("trial_id")
    return pd.concat([there, pd.DataFrame({"run_id": lost["reused_run_id"], "gone": True}, index=lost.index)])


def run_of(store: Store, run_id: str) -> Run | None:
    """Return a run, one that was deleted, too; ``None`` if it is gone for good."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return None
    try:
        return store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _typed(values: list[Any]) -> pd.Series[Any]:
    """Return a column with the type of its values; integers and booleans keep theirs where some are missing."""
    kinds = set(map(type, values))
    if list in kinds:
        values = [json.dumps(value) if isinstance(value, list) else value for value in values]
    if type(None) not in kinds:
        return pd.Series(values)
    for kind, dtype in ((bool, "boolean"), (int, "Int64"), (float, "float64")):
        if kinds == {kind, type(None)}:
            return pd.Series(values, dtype=dtype)
    return pd.Series(values, dtype="object")


def _infinite(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column of metrics with infinity where MLflow, which has no word for it, keeps the largest number there is."""
    return column.where(column.abs() < sys.float_info.max, column * math.inf)


def _loss_first(name: str) -> tuple[bool, list[str | int]]:
    """Sort key: ``loss``, then names in which ``sv_10`` follows ``sv_9``."""
    return name != "loss", [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
