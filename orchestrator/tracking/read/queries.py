"""Finds sweeps and finished trials in MLflow. What is in them is read by `orchestrator.tracking.read.tables`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestrator.errors import UsageError
from orchestrator.tracking import layout
from orchestrator.tracking.store import Store, translated
from workloads.training.trial_state import Outcome

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run

_PAGE = 2000
"""Runs a request. Each page repeats the search up to its offset, so pages are large; a server keeps one in memory at a time."""
_IDS_PER_REQUEST = 250
_CANDIDATES = 8
"""Sweeps named in an error message."""


@dataclass(frozen=True)
class SweepSummary:
    """A sweep as ``list`` and ``status`` show it: times in seconds since the epoch, ``counts`` by outcome.

    ``status`` is MLflow's; a sweep whose process died stays ``RUNNING``. Reused trials are in ``trials`` and ``reused``; ``counts``
    has them only if the process that ended the sweep counted them in. ``tags`` are the parent run's.
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
    tags: Mapping[str, str] = field(default_factory=dict, repr=False)


def find_finished(store: Store, experiment: str, trial_ids: Collection[str], record: Mapping[str, Any]) -> dict[str, str]:
    """Which of the trials need not be run again: run ids, by trial id, of settled runs that recorded all that ``record`` asks for.

    A run counts if its steps are recorded by the same schedule and its measures include the ones asked for.
    """
    with translated(store.display):
        found = store.client.get_experiment_by_name(experiment)
    if found is None or not trial_ids:
        return {}
    wanted, finished = frozenset(trial_ids), _finished(store, found.experiment_id, layout.recording_tag(record))
    return {trial_id: run.info.run_id for trial_id, run in finished.items() if trial_id in wanted}


def finished_by_others(store: Store, experiment_id: str, parent_id: str, record: str) -> dict[str, str]:
    """Return run ids of trials that other sweeps than that of ``parent_id`` finished, with all that the tag ``record`` asks for."""
    finished = _finished(store, experiment_id, record, but=parent_id)
    return {trial_id: run.info.run_id for trial_id, run in finished.items()}


def _finished(store: Store, experiment_id: str, record: str, but: str = "") -> dict[str, Run]:
    finished: dict[str, Run] = {}
    fits: dict[str | None, bool] = {None: False}
    for run in search(store, [experiment_id], f"attributes.status = 'FINISHED' AND {tag_is(layout.KIND, layout.TRIAL)}"):
        tags = run.data.tags
        recorded = tags.get(layout.RECORD)
        if recorded not in fits:
            fits[recorded] = layout.covers(recorded, record)
        if fits[recorded] and tags.get(layout.PARENT) != but:
            # Newest first, so the newest stays.
            finished.setdefault(tags[layout.TRIAL_ID], run)
    return finished


def list_sweeps(store: Store, experiment: str | None = None, *, count: bool = True) -> list[SweepSummary]:
    """All sweeps, or those of one experiment, newest first; unless told to ``count``, with the counts that their runs have only."""
    with translated(store.display):
        experiments = _experiments(store, experiment)
        return [_summary(store, run, experiments[run.info.experiment_id], count=count) for run in _parents(store, experiments)]


def find_sweep(store: Store, reference: str) -> SweepSummary:
    """Return the sweep meant by an id, a unique prefix of one, an experiment's name (its newest sweep), or ``latest``.

    Raises `UsageError` that names the candidates if there is no such sweep, or more than one.
    """
    with translated(store.display):
        experiments = _experiments(store, None)
        parents = _parents(store, experiments)
        if not parents:
            raise UsageError(f"there are no sweeps in {store.display} yet: `orchestrate submit GRID` makes one")
        ids = [run.data.tags[layout.SWEEP_ID] for run in parents]
        names = [experiments[run.info.experiment_id].name for run in parents]
        chosen = _match(reference, ids, names)
        return _summary(store, parents[chosen], experiments[parents[chosen].info.experiment_id])


def _match(reference: str, ids: Sequence[str], experiments: Sequence[str]) -> int:
    """Return the position of the sweep that is meant among sweeps sorted newest first."""
    if reference == "latest":
        return 0
    for known in (ids, experiments):
        if reference in known:
            return known.index(reference)
    matches = [position for position, name in enumerate(ids) if name.startswith(reference)] if reference else []
    if len(matches) == 1:
        return matches[0]
    shown = matches or list(range(len(ids)))
    names = ", ".join(f"{ids[position]} ({experiments[position]})" for position in shown[:_CANDIDATES])
    more = f" and {len(shown) - _CANDIDATES} more" if len(shown) > _CANDIDATES else ""
    problem = f"{reference!r} begins the ids of several sweeps" if matches else f"there is no sweep or experiment {reference!r}; there are"
    raise UsageError(f"{problem}: {names}{more}")


def trial_runs(store: Store, sweep: SweepSummary) -> dict[str, Run]:
    """Return the runs that a sweep made itself, by trial id. Of several, a finished one counts, else the newest."""
    runs: dict[str, Run] = {}
    for run in search(store, [sweep.experiment_id], tag_is(layout.PARENT, sweep.parent_run_id)):
        trial_id = run.data.tags.get(layout.TRIAL_ID)
        if trial_id is not None and (trial_id not in runs or (run.info.status == "FINISHED" != runs[trial_id].info.status)):
            runs[trial_id] = run
    return runs


def attempts_made(store: Store, sweep: SweepSummary, runs: Mapping[str, Run]) -> dict[str, int]:
    """Return how often trials of a sweep, whose ``runs`` are `trial_runs`, were run to no avail: they failed, or were deleted since."""
    deleted = search(store, [sweep.experiment_id], tag_is(layout.PARENT, sweep.parent_run_id), deleted=True)
    vain = [run for run in runs.values() if run.info.status == "FAILED"]
    made: dict[str, int] = {}
    for run in [*vain, *(run for run in deleted if run.info.status in layout.TERMINAL)]:
        tags = run.data.tags
        if layout.TRIAL_ID in tags:
            made[tags[layout.TRIAL_ID]] = max(made.get(tags[layout.TRIAL_ID], 0), int(tags.get(layout.ATTEMPT, 1)))
    return made


def deleted_runs(store: Store, sweep: SweepSummary) -> dict[str, str]:
    """Return the runs of a sweep's own trials that had ended and were deleted, by trial id; those that MLflow still has."""
    runs = search(store, [sweep.experiment_id], tag_is(layout.PARENT, sweep.parent_run_id), deleted=True)
    # What was never completed the sweep has deleted itself.
    return {run.data.tags.get(layout.TRIAL_ID, ""): run.info.run_id for run in runs if run.info.status in layout.TERMINAL}


def runs_by_id(store: Store, experiment_id: str, run_ids: Iterable[str]) -> dict[str, Run]:
    """Return runs of an experiment, by run id; those that were deleted are missing."""
    ids = list(run_ids)
    found = {}
    for start in range(0, len(ids), _IDS_PER_REQUEST):
        some = ", ".join(f"'{run_id}'" for run_id in ids[start : start + _IDS_PER_REQUEST])
        found.update({run.info.run_id: run for run in search(store, [experiment_id], f"attributes.run_id IN ({some})")})
    return found


def search(store: Store, experiment_ids: Sequence[str], filter_string: str, *, deleted: bool = False) -> Iterator[Run]:
    """All runs that match and are active, or else ``deleted``, newest first, page by page."""
    from mlflow.entities import ViewType

    token, view = None, ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    while True:
        with translated(store.display):
            page = store.client.search_runs(list(experiment_ids), filter_string, view, _PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def tag_is(tag: str, value: str) -> str:
    """Return a filter of MLflow's search."""
    return f"tags.`{tag}` = '{value}'"


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


def _parents(store: Store, experiments: Mapping[str, Experiment]) -> list[Run]:
    if not experiments:
        return []
    runs = search(store, list(experiments), tag_is(layout.KIND, layout.SWEEP))
    return sorted(runs, key=lambda run: run.info.start_time, reverse=True)


def _summary(store: Store, run: Run, experiment: Experiment, *, count: bool = True) -> SweepSummary:
    tags, metrics = run.data.tags, run.data.metrics
    sweep = SweepSummary(
        sweep_id=tags[layout.SWEEP_ID],
        experiment=experiment.name,
        experiment_id=experiment.experiment_id,
        status=run.info.status,
        started=run.info.start_time / 1000,
        ended=run.info.end_time / 1000 if run.info.end_time and run.info.status != "RUNNING" else None,
        trials=int(tags.get(layout.TRIALS, 0)),
        counts={outcome.value: int(metrics[outcome.value]) for outcome in Outcome if outcome.value in metrics},
        reused=int(tags.get(layout.REUSED, 0)),
        parent_run_id=run.info.run_id,
        tags=tags,
    )
    if sweep.counts or not count:
        return sweep
    # Still running, or ended without a word: count what is there.
    ended = (child for child in trial_runs(store, sweep).values() if child.info.status in layout.TERMINAL)
    counts = Counter(child.data.tags.get(layout.OUTCOME, "") for child in ended)
    return replace(sweep, counts={outcome.value: counts[outcome.value] for outcome in Outcome})
