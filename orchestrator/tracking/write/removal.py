"""Deletes sweeps, and gives to other sweeps first what they reuse of them, so that it outlives even what was deleted for good."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import TrackingUnavailable, UsageError
from orchestrator.tracking import layout
from orchestrator.tracking.artifacts import put_files
from orchestrator.tracking.gathering import Gathering
from orchestrator.tracking.read.queries import SweepSummary, list_sweeps, own_trials
from orchestrator.tracking.read.results import Source
from orchestrator.tracking.read.runs import experiments_of
from orchestrator.tracking.read.tables import REUSE, find_trials, is_reused
from orchestrator.tracking.store import Store, translated
from orchestrator.tracking.write.delivery import take
from orchestrator.tracking.write.edits import children, delete_runs, restore_runs, retag
from orchestrator.tracking.write.results import encode_rows
from workloads.amounts import amount
from workloads.training.trial_state import Outcome

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run

TAKEN_OVER = "taken-{}"
"""What files begin with of trials that a sweep took over from one that was deleted; what `late` writes comes after it, and counts."""


@dataclass(frozen=True)
class Reuse:
    """Trials that another sweep reuses of one: that sweep, and their ids."""

    sweep: SweepSummary
    trials: frozenset[str]


def reused_by_others(store: Store, sweep: SweepSummary, but: Collection[str] = (), ended: pd.DataFrame | None = None) -> list[Reuse]:
    """Return what other sweeps, of whatever experiment, reuse of one, oldest first; ``but`` those with these ids.

    ``ended`` are its trials, unless they are yet to be read. Raises `orchestrator.errors.TrackingUnavailable`.
    """
    ended = own_trials(store, sweep) if ended is None else ended
    there, found, sweeps = ended[~ended["gone"]], [], list_sweeps(store, count=False)
    parents = [other.parent_run_id for other in sweeps]
    for other in reversed(sweeps):
        if other.sweep_id in {sweep.sweep_id, *but}:
            continue
        try:
            with translated(store.display):
                table = store.artifacts_of(other.parent_run_id).table(layout.TRIALS_FILE, REUSE)
        except TrackingUnavailable:
            # Files of experiments that came by way of a server cannot be read from its database. What such a one reuses must not be lost.
            if other.reused:
                raise
            continue
        if table is None:
            continue
        rows = table.to_pandas()
        # Older lists say which run it is, and not of which sweep; others may name one that is not there any more, and gave it to this one.
        here = rows["reused_run_id"].isin(there["run_id"].dropna())
        if "reused_from" in rows:
            here = (rows["reused_from"] == sweep.parent_run_id) | here & ~rows["reused_from"].isin(parents)
        if trials := frozenset(rows["trial_id"][here & rows["trial_id"].isin(there.index)]):
            found.append(Reuse(other, trials))
    return found


def hand_over(store: Store, sweep: SweepSummary, reused: Sequence[Reuse]) -> None:
    """Give trials of a sweep to those that reuse them, in the turns of all their experiments.

    The first of several has a trial then, and the others reuse it from there. Done again, it goes on. Raises
    `orchestrator.errors.TrackingUnavailable`.
    """
    owners: dict[str, Source] = {}
    lists: list[tuple[Run, dict[str, Source | None]]] = []
    for reuse in reused:
        with translated(store.display):
            parent = store.client.get_run(reuse.sweep.parent_run_id)
            others = {trial_id: owners[trial_id] for trial_id in reuse.trials & set(owners)}
            rows = _take_over(store, sweep, reuse.sweep, parent, reuse.trials - set(owners))
            run_ids = zip(rows["trial_id"], rows["run_id"], strict=True)
            own = {trial_id: Source(parent.info.run_id, run_id) for trial_id, run_id in run_ids}
            lists.append((parent, others | dict.fromkeys(own)))
            owners |= own
    # Backwards: as long as somebody reuses a trial, whoever is to have it does so, too, and would be given it again.
    for parent, taken in reversed(lists):
        take(store, parent, taken)


def _take_over(store: Store, sweep: SweepSummary, taker: SweepSummary, parent: Run, trials: Collection[str]) -> pd.DataFrame:
    """Make trials of ``sweep`` those of ``taker``, in all but its list of trials, and return them."""
    found = find_trials(store, taker)
    ended = found.ended["outcome"].notna() & (found.ended["outcome"] != layout.DELETED)
    pack = TAKEN_OVER.format(sweep.sweep_id)
    gathering = Gathering(store, found, ended & found.trials["trial_id"].isin(trials), pack)
    for name, content in gathering.files():
        put_files(parent.info.artifact_uri, {name: content}, store.uri)
    rows = gathering.rows
    if len(rows):
        put_files(parent.info.artifact_uri, {layout.results_path(pack, rows["trial_id"]): encode_rows(rows)}, store.uri)
    own = rows[rows["run_id"].notna()]
    with translated(store.display):
        experiments = {*experiments_of(parent), *experiments_of(store.client.get_run(sweep.parent_run_id))} - {taker.experiment_id}
    if experiments:
        store.tag(parent.info.run_id, layout.RUNS_IN, json.dumps(sorted(experiments)))
    if at_ends := layout.at_ends(sweep.tags):
        store.tag(parent.info.run_id, layout.AT_ENDS, json.dumps(sorted(at_ends | layout.at_ends(parent.data.tags))))
    retag(store, {str(row["run_id"]): _tags(row, taker) for _, row in own.iterrows()})
    counted = {name: name.removeprefix(layout.COUNT) for name in sorted(parent.data.metrics)}
    others = set(found.trials["trial_id"][is_reused(found.trials)]) - set(rows["trial_id"])
    mine = own_trials(store, taker)["outcome"]
    outcomes = mine[~mine.index.isin(list(others))].value_counts()
    store.measure(parent.info.run_id, {name: int(outcomes.get(key, 0)) for name, key in counted.items() if key in set(Outcome)})
    return rows


def _tags(row: pd.Series[Any], taker: SweepSummary) -> Mapping[str, str]:
    tags = {layout.PARENT: taker.parent_run_id, layout.SWEEP_ID: taker.sweep_id}
    return tags | {tag: row[name] for tag, name in ((layout.TRACE, "trace"), (layout.FACTORS, "factors")) if isinstance(row[name], str)}


def remove_sweep(store: Store, sweep: SweepSummary, but: Collection[str] = ()) -> int:
    """Mark a sweep's runs as deleted, its own last, and return how many that were.

    Whoever begins to reuse some of it has it in its list first, and then looks whether it is there still. So we look last, too: if a sweep
    reuses it that is not among those with ids in ``but``, all is as it was, and `UsageError` says so. Raises
    `orchestrator.errors.TrackingUnavailable`.
    """
    with translated(store.display):
        parent = store.client.get_run(sweep.parent_run_id)
    ended, runs = own_trials(store, sweep), children(store, parent)
    delete_runs(store, runs)
    delete_runs(store, [sweep.parent_run_id])
    if late := reused_by_others(store, sweep, but, ended):
        restore_runs(store, [sweep.parent_run_id, *runs])
        raise UsageError(
            f"sweep {sweep.sweep_id} is not deleted: sweep {late[0].sweep.sweep_id} of {late[0].sweep.experiment} has begun to reuse "
            f"{amount(len(late[0].trials), 'trial')} of it meanwhile; try again, and what it reuses becomes its own"
        )
    return len(runs) + 1
