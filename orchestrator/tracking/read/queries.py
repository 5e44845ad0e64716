"""Finds sweeps and finished trials in MLflow. What is in them is read by `orchestrator.tracking.read.tables`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestrator.errors import UsageError
from orchestrator.tracking import layout
from orchestrator.tracking.notes import own_note
from orchestrator.tracking.read.results import Source, ended_trials, not_whole, sources
from orchestrator.tracking.read.runs import search, tag_is
from orchestrator.tracking.store import Store, translated
from workloads.training.trial_state import Outcome

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Experiment, Run

    from orchestrator.grid.traced import Traced

_CANDIDATES = 8
"""Sweeps named in an error message."""


@dataclass(frozen=True)
class SweepSummary:
    """A sweep as ``list`` and ``status`` show it: times in seconds since the epoch, ``counts`` by outcome.

    ``status`` is MLflow's; a sweep whose process died stays ``RUNNING``. Reused trials are in ``trials`` and ``reused``; ``counts``
    has them only if the process that ended the sweep counted them in. ``name`` is what it is called; ``tags`` are
    the parent run's.
    """

    sweep_id: str
    experiment: str
    experiment_id: str
    status: str
    started: float
    ended: float | None
    trials: int
    counts: Mapping[str, int]
    reused: int
    parent_run_id: str
    name: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def note(self) -> str:
        """What somebody has written about it."""
        return own_note(self.tags.get(layout.NOTE, ""))


def find_finished(
    store: Store, experiment: str, trial_ids: Collection[str], record: Mapping[str, Any], traced: Traced | None = None
) -> dict[str, Source]:
    """Which of the trials need not be run again: where they are, by trial id, with all that ``record`` asks for.

    A trial counts if its steps are recorded by the same schedule and its measures include the ones asked for; what is ``traced`` of it not
    at its end only.
    """
    with translated(store.display):
        found = store.client.get_experiment_by_name(experiment)
    return {} if found is None else _finished(store, found, layout.recording_tag(record), frozenset(trial_ids), traced=traced)


def finished_by_others(store: Store, experiment_id: str, parent_id: str, record: str) -> dict[str, Source]:
    """Return where trials are that other sweeps than that of ``parent_id`` finished, with all that the tag ``record`` asks for."""
    with translated(store.display):
        return _finished(store, store.client.get_experiment(experiment_id), record, None, but=parent_id)


def _finished(
    store: Store,
    experiment: Experiment,
    record: str,
    wanted: frozenset[str] | None,
    but: str = "",
    traced: Traced | None = None,
) -> dict[str, Source]:
    made: dict[str, Source] = {}
    parents = _parents(store, {experiment.experiment_id: experiment}, deleted=True)
    # Those that were deleted last: their trials may have become those of sweeps that are there.
    for parent in sorted(parents, key=lambda run: bool(run.info.lifecycle_stage == "deleted")):
        if wanted is not None and len(made) == len(wanted):
            break
        if parent.info.run_id == but or not layout.covers(parent.data.tags.get(layout.RECORD, layout.NOTHING), record):
            continue
        with translated(store.display):
            ended = ended_trials(store, parent, measures=False)
            if traced is not None:
                ended = ended.drop(index=list(not_whole(store, parent, ended, traced)))
        # Newest first, so the newest stays, of those that are there.
        made = {**sources(ended, parent.info.run_id, wanted), **made}
    return made


def experiment_names(store: Store) -> set[str]:
    """Return the names of all experiments that were not deleted."""
    with translated(store.display):
        return {experiment.name for experiment in _experiments(store, None).values()}


def check_experiments(store: Store, names: Sequence[str]) -> Sequence[str]:
    """Return the names of experiments. Raises `UsageError` for one that there is not."""
    if names:
        known = experiment_names(store)
        for name in names:
            if name not in known:
                there = ", ".join(sorted(known)[:_CANDIDATES])
                raise UsageError(f"there is no experiment {name!r} in {store.display}; there are {there}")
    return names


def list_sweeps(store: Store, experiment: str | None = None, *, count: bool = True) -> list[SweepSummary]:
    """All sweeps, or those of one experiment, newest first; unless told to ``count``, with the counts that their runs have only."""
    with translated(store.display):
        experiments = _experiments(store, experiment)
        return [_summary(store, run, experiments[run.info.experiment_id], count=count) for run in _parents(store, experiments)]


def find_sweep(store: Store, reference: str) -> SweepSummary:
    """Return the sweep meant by an id, a unique prefix of one, its name, an experiment's name (its newest sweep), or ``latest``.

    Raises `UsageError` that names the candidates if there is no such sweep, or more than one.
    """
    with translated(store.display):
        experiments = _experiments(store, None)
        parents = _parents(store, experiments)
        if not parents:
            raise UsageError(f"there are no sweeps in {store.display} yet: `orchestrate submit GRID` makes one")
        ids = [run.data.tags[layout.SWEEP_ID] for run in parents]
        groups = [experiments[run.info.experiment_id].name for run in parents]
        chosen = _match(reference, ids, groups, [run.info.run_name for run in parents])
        return _summary(store, parents[chosen], experiments[parents[chosen].info.experiment_id])


def sweep_of(store: Store, parent: Run) -> SweepSummary:
    """Return the sweep that has a run, with the counts of its trials."""
    with translated(store.display):
        return _summary(store, parent, store.client.get_experiment(parent.info.experiment_id))


def refreshed(store: Store, sweep: SweepSummary) -> SweepSummary:
    """Return a sweep as it stands now, with the counts that its run has only."""
    with translated(store.display):
        run = store.client.get_run(sweep.parent_run_id)
        return _summary(store, run, store.client.get_experiment(sweep.experiment_id), count=False)


def _match(reference: str, ids: Sequence[str], experiments: Sequence[str], names: Sequence[str | None]) -> int:
    """Return the position of the sweep that is meant among sweeps sorted newest first."""
    if reference == "latest":
        return 0
    for known in (ids, experiments):
        if reference in known:
            return known.index(reference)
    problem, matches = "is the name of several sweeps", [position for position, name in enumerate(names) if reference and name == reference]
    if not matches:
        problem = "begins the ids of several sweeps"
        matches = [position for position, name in enumerate(ids) if name.startswith(reference)] if reference else []
    if len(matches) == 1:
        return matches[0]
    shown = matches or list(range(len(ids)))
    listed = ", ".join(f"{ids[position]} ({experiments[position]})" for position in shown[:_CANDIDATES])
    more = f" and {len(shown) - _CANDIDATES} more" if len(shown) > _CANDIDATES else ""
    told = f"{reference!r} {problem}" if matches else f"there is no sweep or experiment {reference!r}; there are"
    raise UsageError(f"{told}: {listed}{more}")


def own_trials(store: Store, sweep: SweepSummary, *, measures: bool = False, attempts: bool = False) -> pd.DataFrame:
    """Return the trials that a sweep ran itself and that have ended, as `orchestrator.tracking.read.results.ended_trials` has them."""
    with translated(store.display):
        return ended_trials(store, store.client.get_run(sweep.parent_run_id), measures=measures, attempts=attempts)


def attempts_made(trials: pd.DataFrame) -> dict[str, int]:
    """Return how often trials, which are all attempts that a sweep made, were run to no avail: they failed, or were deleted since."""
    vain = trials[(trials["outcome"] == Outcome.FAILED.value) | trials["gone"]]
    return {str(key): int(count) for key, count in vain["attempt"].groupby(level=0).max().items()}


def _experiments(store: Store, name: str | None) -> dict[str, Experiment]:
    if name is not None:
        found = store.client.get_experiment_by_name(name)
        return {found.experiment_id: found} if found is not None else {}
    experiments, token = {}, None
    while True:
        page = store.client.search_experiments(page_token=token)
        experiments.update({experiment.experiment_id: experiment for experiment in page})
        token = page.token
        if not token:
            return experiments


def _parents(store: Store, experiments: Mapping[str, Experiment], *, deleted: bool = False) -> list[Run]:
    """Return the runs of sweeps, newest first; with those that were ``deleted``, whose trials may still be there."""
    if not experiments:
        return []
    kind = tag_is(layout.KIND, layout.SWEEP)
    runs = [run for view in ((False, True) if deleted else (False,)) for run in search(store, list(experiments), kind, deleted=view)]
    # People may remove tags, and one without an id is called nothing by anybody.
    return sorted((run for run in runs if layout.SWEEP_ID in run.data.tags), key=lambda run: run.info.start_time, reverse=True)


def _summary(store: Store, run: Run, experiment: Experiment, *, count: bool = True) -> SweepSummary:
    tags = run.data.tags
    sweep = SweepSummary(
        sweep_id=tags[layout.SWEEP_ID],
        experiment=experiment.name,
        experiment_id=experiment.experiment_id,
        status=run.info.status,
        started=run.info.start_time / 1000,
        ended=run.info.end_time / 1000 if run.info.end_time and run.info.status != "RUNNING" else None,
        trials=int(tags.get(layout.TRIALS, 0)),
        counts=_counts(run.data.metrics),
        reused=int(tags.get(layout.REUSED, 0)),
        parent_run_id=run.info.run_id,
        name=run.info.run_name or "",
        tags=tags,
    )
    if sweep.counts or not count:
        return sweep
    # Still running, or ended without a word: count what is there.
    with translated(store.display):
        ended = ended_trials(store, run, measures=False)
    counts = ended["outcome"][~ended["gone"]].value_counts()
    return replace(sweep, counts={outcome.value: int(counts.get(outcome.value, 0)) for outcome in Outcome})


def _counts(metrics: Mapping[str, float]) -> dict[str, int]:
    """Return the counts by outcome among a sweep's metrics, which once had no section."""
    found = {outcome.value: metrics.get(layout.COUNT + outcome.value, metrics.get(outcome.value)) for outcome in Outcome}
    return {outcome: int(count) for outcome, count in found.items() if count is not None}
