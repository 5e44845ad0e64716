"""What sweeps that did not come to their end have left, and how to go on with it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from orchestrator import liveness
from orchestrator.errors import BusyError, GridError, UnavailableError, UsageError
from orchestrator.grid.traced import NOTHING_TRACED, Traced
from orchestrator.storage.base import Storage
from orchestrator.storage.checkpoints import furthest
from orchestrator.storage.folder import SweepFolder, folders
from orchestrator.sweeps.found import Found
from orchestrator.sweeps.own_code import use_code
from workloads.amounts import agreeing, amount
from workloads.training.trial_state import Paused

if TYPE_CHECKING:
    from orchestrator.grid import Grid
    from orchestrator.sweeps.at_ends import EndedWithLess
    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store
    from orchestrator.tracking.turns import Turn
    from workloads.training.recording import Recording
    from workloads.trial import Trial


_T = TypeVar("_T")


def find(
    store: Store,
    storage: Storage,
    experiment: str,
    turn: Turn,
    trials: Mapping[str, Trial],
    recording: Recording,
    *,
    fresh: bool = False,
    others: Sequence[str] = (),
    traced: Traced = NOTHING_TRACED,
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> Found:
    """Return what there is already of ``trials``, by id, that record what ``recording`` says, in the experiment's ``turn``.

    Measures that are not ``traced`` count if they are known at a trial's end, or can be computed from its factors and the data ``files``,
    which are by their digests. Trials of the experiments ``others`` count, too; and those that a sweep that is taken up was told of. Raises
    `UsageError` for one that there is not, and `orchestrator.errors.UnavailableError`.
    """
    from orchestrator.sweeps.continuing import continued
    from orchestrator.tracking import layout
    from orchestrator.tracking.read.queries import attempts_made, find_finished, own_trials
    from orchestrator.tracking.read.results import finished
    from orchestrator.tracking.write.parent import digest_of

    folders, unknown = settle(store, storage, experiment, turn)
    if fresh:
        return Found(unknown=unknown, fresh=True)
    tag = layout.recording_tag(record := recording.as_json())
    sweep = to_take_up(store, experiment, digest_of(trials), tag)
    attempts = None if sweep is None else own_trials(store, sweep, attempts=True)
    own = None if attempts is None else finished(attempts)["outcome"].groupby(level=0).last()
    again = sweep is not None and layout.FRESH in sweep.tags
    places = _experiments(store, experiment, others, sweep)
    mine = set() if own is None else set(own.index)
    ended = _merged(() if again else places, lambda name: find_finished(store, name, list(trials), record, traced))
    reused = {key: source for key, source in ended.items() if key not in mine}
    done = {*reused, *mine}
    states: dict[str, Paused] = {}
    for folder in folders:
        furthest(states, folder.checkpoints(tag).load_all({k: t for k, t in trials.items() if k not in done}).values())
    left = {} if again else {key: trial for key, trial in trials.items() if key not in done and key not in states}
    earlier = _merged(places, lambda name: continued(store, name, list(left.values()), recording))
    left = {key: trial for key, trial in left.items() if key not in earlier}
    less, measured = _measured_at_ends(store, places, left, recording, traced, files)
    outcomes = {} if own is None else Counter(own)
    made = {} if attempts is None else {key: count + 1 for key, count in attempts_made(attempts).items()}
    begun = states | earlier | measured
    return Found(sweep, outcomes, done, reused, begun, earlier.keys(), less, made, folders, unknown, again, places)


def _merged(names: Sequence[str], by_trial: Callable[[str], Mapping[str, _T]]) -> dict[str, _T]:
    """Return what ``by_trial`` says of each name, of which the first counts that says something of a trial."""
    return {key: found for name in reversed(names) for key, found in by_trial(name).items()}


def _measured_at_ends(
    store: Store, places: Sequence[str], left: Mapping[str, Trial], recording: Recording, traced: Traced, files: Mapping[str, bytes]
) -> tuple[dict[str, EndedWithLess], dict[str, Paused]]:
    """Return those of the trials that are ``left`` of which only measures at their ends are missing, and the same with these computed."""
    from orchestrator.sweeps.at_ends import ended_with_less, measured

    less = ended_with_less(store, places, left.values(), recording, traced)
    # Measuring imports PyTorch, for which most sweeps need not wait.
    states = measured(store, less, left, recording, files) if less else {}
    return {key: less[key] for key in states}, states


def _experiments(store: Store, own: str, others: Sequence[str], sweep: SweepSummary | None) -> tuple[str, ...]:
    """Return the experiments whose trials count: a sweep's ``own``, ``others``, and those that it was told of before."""
    from orchestrator.tracking import layout
    from orchestrator.tracking.read.queries import check_experiments, experiment_names

    told = json.loads(sweep.tags.get(layout.REUSE_FROM, "[]")) if sweep is not None else []
    # What a sweep was told of before may have been deleted or renamed since, which is no reason not to go on.
    there = [name for name in told if name in experiment_names(store)]
    return own, *(name for name in dict.fromkeys([*check_experiments(store, others), *there]) if name != own)


def settle(store: Store, storage: Storage, experiment: str, turn: Turn) -> tuple[list[SweepFolder], list[str]]:
    """Bring to MLflow what sweeps of an experiment have left in the spool, and say of those that died that they did, in its ``turn``.

    Returns the folders of sweeps that stopped short, and the ids of those whose results MLflow cannot take since it does not have the
    sweeps: they may have been deleted, or it is another database than it was. What has been computed is not ours to remove then.
    """
    from orchestrator.tracking.read.queries import list_sweeps
    from orchestrator.tracking.write.delivery import deliver

    sweeps = {sweep.sweep_id: sweep for sweep in list_sweeps(store, experiment, count=False)}
    stopped, unknown, owner = [], [], store.owner(experiment)
    for folder, description in folders(storage, experiment):
        if not description.is_of(owner):
            # Not even if its sweep is here: that may be a copy, from a file.
            continue
        sweep = sweeps.get(description.sweep_id)
        if sweep is None:
            if folder.is_idle and description.machine == liveness.machine():
                # It died before MLflow had heard of it.
                folder.remove()
                continue
            stopped.append(folder)
            unknown += [description.sweep_id] if folder.spool.names() else []
            continue
        if is_alive(sweep):
            continue
        deliver(store, sweep.parent_run_id, folder.spool, turn)
        if sweep.status == "FINISHED":
            folder.remove()
        else:
            stopped.append(folder)
    for sweep in sweeps.values():
        # Whoever runs has the turn, which is ours now.
        if sweep.status == "RUNNING" and not is_alive(sweep):
            store.end(sweep.parent_run_id, "KILLED")
    return stopped, unknown


def job_of(sweep: SweepSummary) -> tuple[str, str] | None:
    """Return the Ray job in which the driver of a sweep runs, and where its cluster takes jobs."""
    from orchestrator.tracking import layout

    job, _, address = sweep.tags.get(layout.JOB, "").partition(" ")
    return (job, address) if address else None


def _job_has_ended(sweep: SweepSummary, address: str | None) -> bool:
    """Return whether a sweep ran as a job and its cluster says that it does not any more. Asks only where this user has sent sweeps,
    and at ``address``, if that is given."""
    from orchestrator.cluster.addresses import is_known
    from orchestrator.cluster.jobs import ENDED, Jobs

    job = job_of(sweep)
    if job is None or not is_known(job[1], address):
        return False
    with suppress(UnavailableError):
        return Jobs(job[1]).status(job[0]) in (None, *ENDED)
    return False


def is_alive(sweep: SweepSummary, address: str | None = None) -> bool | None:
    """Return whether a sweep runs and its process is there; ``None`` if it is on another machine, of which nothing is known.

    ``address`` is a cluster that this user has given.
    """
    from orchestrator.tracking import layout

    if sweep.status != "RUNNING" or _job_has_ended(sweep, address):
        return False
    if sweep.tags.get(layout.MACHINE) != liveness.machine():
        return None
    return liveness.is_there(sweep.tags.get(layout.PROCESS, ""))


@dataclass(frozen=True)
class Synced:
    """A sweep whose spool was delivered: how many trials that were, and how it stands now."""

    sweep_id: str
    experiment: str
    delivered: int
    state: str


def sync(store: Store, storage: Storage, sweep_id: str | None) -> Iterator[Synced]:
    """Deliver what sweeps have left, and say of those that are complete that they are. All that are in ``storage``, or the one named.

    Raises `orchestrator.errors.UnavailableError` if the store still takes nothing.
    """
    from orchestrator.tracking.read.queries import list_sweeps
    from orchestrator.tracking.turns import experiment_turn
    from orchestrator.tracking.write.delivery import complete, deliver

    for folder, description in list(folders(storage)):
        if sweep_id is not None and not description.sweep_id.startswith(sweep_id):
            continue
        sweeps = {sweep.sweep_id: sweep for sweep in list_sweeps(store, description.experiment, count=False)}
        sweep, here = sweeps.get(description.sweep_id), description.is_of(store.owner(description.experiment))
        if sweep is None or not here:
            # Of a sweep that is in another store there may be a copy here, from a file.
            waiting = len(folder.spool.names()) if here or sweep is not None else 0
            they_are = agreeing(waiting, "it is", "they are")
            state = "its run is not there, restore it" if here else f"{they_are} for {description.tracking}"
            if waiting:
                yield Synced(
                    description.sweep_id,
                    description.experiment,
                    0,
                    f"{amount(waiting, 'batch', 'batches')} {agreeing(waiting, 'waits', 'wait')}: {state}",
                )
            continue
        if is_alive(sweep):
            continue
        try:
            with experiment_turn(store, sweep.experiment, patient=False) as turn:
                delivered = deliver(store, sweep.parent_run_id, folder.spool, turn)
                left = complete(store, sweep)
                if not left:
                    folder.remove()
                elif store.status(sweep.parent_run_id) == "RUNNING":
                    store.end(sweep.parent_run_id, "KILLED")
        except BusyError as error:
            yield Synced(sweep.sweep_id, sweep.experiment, 0, f"{error}: try again later")
            continue
        state = f"{left} to be run: `orchestrate resume {sweep.sweep_id}`" if left else "it is complete"
        yield Synced(sweep.sweep_id, sweep.experiment, delivered, state)


def to_take_up(store: Store, experiment: str, digest: str, record: str) -> SweepSummary | None:
    """Return the newest sweep of an experiment that has just these trials and has stopped short, in the experiment's turn."""
    from orchestrator.tracking import layout
    from orchestrator.tracking.read.queries import list_sweeps

    for sweep in list_sweeps(store, experiment, count=False):
        same = sweep.status != "FINISHED" and sweep.tags.get(layout.TRIALS_DIGEST) == digest and sweep.tags.get(layout.RECORD) == record
        if same and not is_alive(sweep):
            return sweep
    return None


def kept_files(store: Store, storage: Storage, sweep: SweepSummary) -> dict[str, Callable[[], bytes]]:
    """Return what reads the data files of a sweep's grid that are kept, in its folder or among its artifacts, by their names in the grid.

    It raises `ValueError` where one is not there any more.
    """
    from orchestrator.tracking.read.inputs import data_files

    folder = SweepFolder(storage, sweep.experiment, sweep.sweep_id)
    description = folder.description()

    def from_folder(name: str, digest: str) -> bytes:
        content = folder.data_file(digest)
        if content is None:
            raise ValueError(f"{name} is not in {storage.url} any more")
        return content

    kept = data_files(store, sweep.parent_run_id)
    if description is not None:
        kept |= {name: partial(from_folder, name, digest) for name, digest in description.files.items()}
    return kept


def grid_of(store: Store, storage: Storage, sweep: SweepSummary, modules: Sequence[str] = (), *, for_work: bool = False) -> Grid:
    """Return the grid of a sweep, as it was submitted. Data files are read from where they were, or from the sweep's folder.

    Those of one that came from a file are among its artifacts. Users' own kinds and measures are those of ``modules``, or, if the sweep's
    work is asked for, of the code that it keeps. Raises `UsageError` if that cannot be: a data file is gone, or has changed, and
    ``storage`` does not have it; and what `use_code` raises.
    """
    from orchestrator.grid import parse_grid
    from orchestrator.tracking import layout
    from orchestrator.tracking.write.parent import digest_of
    from workloads.training.references import against

    use_code(store, sweep, modules, kept=for_work)
    kept = kept_files(store, storage, sweep)
    path = Path(sweep.tags.get(layout.GRID, "grid.yaml"))
    text = store.read(sweep.parent_run_id, layout.GRID_FILE).decode()
    try:
        grid = parse_grid(text, str(path), path.parent, json.loads(sweep.tags.get(layout.OVERRIDES, "[]")), kept)
    except GridError as error:
        reason = "; ".join(error.mistakes[:3])
        raise UsageError(f"the grid of sweep {sweep.sweep_id} cannot be read any more: {reason}") from error
    if digest_of(trial.trial_id for trial in grid.trials) != sweep.tags.get(layout.TRIALS_DIGEST):
        raise UsageError(
            f"the grid of sweep {sweep.sweep_id} has other trials now: a data file has changed, and {storage.url} does not have it as it "
            "was; bring it back, or submit the grid anew"
        )
    recorded = json.loads(sweep.tags.get(layout.RECORD, layout.NOTHING)).get(layout.REFERENCES, {})
    if changed := [name for name, array in against(recorded, grid.record.references).items() if array != recorded[name]]:
        raise UsageError(
            f"the file that {changed[0]} of sweep {sweep.sweep_id} is against has changed, and {storage.url} does not have it as it was; "
            "bring it back, or submit the grid anew"
        )
    return grid
