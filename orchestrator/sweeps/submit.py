"""A sweep from grid to summary: what `orchestrate submit` does. Reads top to bottom in the order in which it happens."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import liveness
from orchestrator.errors import StorageUnavailable, TrackingUnavailable, UsageError
from orchestrator.execution.progress import Logged, Reporter, State
from orchestrator.execution.recovery import Recovery
from orchestrator.execution.scheduler import Board
from orchestrator.options import Options
from orchestrator.planning.pack import steps_left
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.storage.base import Storage, open_storage
from orchestrator.storage.detail import Detail
from orchestrator.storage.folder import Description, SweepFolder, folder_of
from orchestrator.sweeps.hire import connected, crews_of
from orchestrator.sweeps.own_code import code_files
from orchestrator.sweeps.run import Run, StopRequest, watched
from orchestrator.tracking import layout
from orchestrator.tracking.write.writer import SweepWriter
from workloads.amounts import agreeing, amount
from workloads.extensions import activate
from workloads.training.recording import DEFAULT_MEASURES, Recording
from workloads.training.trial_state import Outcome

if TYPE_CHECKING:
    from orchestrator.cluster.connection import Cluster
    from orchestrator.grid import Grid
    from orchestrator.grid.traced import Traced
    from orchestrator.sweeps.found import Found
    from orchestrator.tracking.store import Store
    from orchestrator.tracking.turns import Turn
    from workloads.trial import Trial


WAITING = "another process, on {host}, is submitting to {name!r}: waiting for it to finish"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many trials have each outcome."""

    converged: int
    exhausted: int
    diverged: int
    aborted: int
    failed: int
    cancelled: int


@dataclass(frozen=True)
class Summary(Counts):
    """How a sweep ended; what ``submit --json`` prints."""

    sweep_id: str
    experiment: str
    trials: int
    reused: int
    seconds: float
    tracking_uri: str
    parent_run_id: str


def recording_of(grid: Grid) -> Recording:
    """Return what the grid's ``record`` asks for."""
    record = grid.record
    names = DEFAULT_MEASURES if record.measures is None else tuple(record.measures)
    return Recording(names, record.points, record.steps, record.checkpoint_steps, record.checkpoint_losses, record.references)


def detail_of(grid: Grid) -> Detail:
    """Return which of the grid's trials become runs of MLflow."""
    return Detail.of(grid.tracking.runs, len(grid.trials))


def submit(grid: Grid, reporter: Reporter, options: Options | None = None, stop: StopRequest | None = None) -> Summary:
    """Run what is missing of ``grid`` and wait for it.

    A sweep of the same trials that stopped short is taken up; trials that any sweep of the experiment had begun go on from checkpoints.
    Raises `orchestrator.errors.UnavailableError` if Ray, MLflow or the storage cannot be used; at the start there is nothing then, or an
    empty MLflow database. When ``stop`` is wanted, or KeyboardInterrupt comes, what has ended is logged and the sweep's run is marked as
    killed; with ``stop`` the others are saved, too, and counted as cancelled. Raises `UsageError` if more is set than MLflow keeps.
    """
    from orchestrator.tracking.turns import experiment_turn

    began = time.monotonic()
    _check_overrides(grid)
    activate(grid.extensions)
    options, stop, logged = options or Options(), stop or StopRequest(), Logged(reporter)
    recording = recording_of(grid)
    storage = open_storage(options.storage)
    with ExitStack() as stack:
        connection = stack.enter_context(ExitStack())
        cluster, workers, crews, store = connection.enter_context(connected(grid, recording, options, logged, stop))
        turn = stack.enter_context(experiment_turn(store, grid.name, lambda host: logged.note(WAITING.format(host=host, name=grid.name))))
        trials = {trial.trial_id: trial for trial in grid.trials}
        found = _found(store, storage, grid, turn, recording, options)
        missing = found.missing(trials)
        crew, engine = crews_of(workers, crews, cluster), grid.resources.engine
        plan = make_plan(missing, recording, engine, crew, reused=len(found.finished))
        for text in (*found.notes(len(trials)), *again(store, found, missing, recording, grid.traced)):
            logged.note(text)
        job = _Beginning(grid, options, store, storage, recording.as_json(), found)
        # Before MLflow hears of it: what cannot be kept is not begun.
        folder = stack.enter_context(job.folder())
        writer = stack.enter_context(job.writer(plan, cluster, folder, turn, logged))
        folder.begun(writer.parent_run_id)
        if (found := job.settled(writer, logged)) is not job.found:
            missing = found.missing(trials)
            plan = make_plan(missing, recording, engine, crew, reused=len(found.finished))
        for text in _announced(grid, plan, cluster):
            logged.note(text)
        state = State(len(trials), len(found.finished), _budget(missing))
        board: Board[Any] = Board(plan.packs, time.monotonic)
        run = Run(grid, recording, workers, connection.close, board, Recovery(board, folder.checkpoints(job.tag)), writer, state, logged)
        with stop.listening(), watched(store, writer, state, stop):
            run.go(folder.checkpointing(job.tag, options.every), stop)
        counts = _counts(state, found, len(missing))
        measured = {"seconds": time.monotonic() - began, "idle_share": board.idle_share, "peak_memory_bytes": state.peak_bytes}
        _close(writer, {"trials": len(trials), "reused": len(found.reused), **counts}, measured, storage)
        if not counts[Outcome.CANCELLED]:
            found.clear(trials, store, grid.name)
            folder.remove()
        seconds = round(time.monotonic() - began, 3)
        return Summary(writer.sweep_id, grid.name, len(trials), len(found.reused), seconds, store.display, writer.parent_run_id, **counts)


def _check_overrides(grid: Grid) -> None:
    """Raise `UsageError` for more than a tag takes: MLflow would cut off the rest, and nobody could read the grid again."""
    length, most = len(json.dumps(grid.overrides)), layout.TAG_LENGTH
    if length > most:
        raise UsageError(f"what is set beside the grid has {length:,} characters, and MLflow keeps {most:,}: put it into the grid")


def _found(store: Store, storage: Storage, grid: Grid, turn: Turn, recording: Recording, options: Options) -> Found:
    from orchestrator.sweeps.resume import find

    trials = {trial.trial_id: trial for trial in grid.trials}
    traced, files = grid.traced, grid.files.contents
    fresh, others = options.fresh, options.reuse_from
    return find(store, storage, grid.name, turn, trials, recording, fresh=fresh, others=others, traced=traced, files=files)


def again(store: Store, found: Found, missing: Sequence[Trial], recording: Recording, traced: Traced) -> Iterator[str]:
    """Yield for what reasons trials are run that have been run before."""
    from orchestrator.tracking.read.reuse import Reuse, why_again

    if not found.fresh:
        left = [trial.trial_id for trial in missing if trial.trial_id not in found.states]
        yield from Reuse(0, 0, why_again(store, found.experiments, left, layout.recording_tag(recording.as_json()), traced)).lines()


def _budget(trials: Sequence[Trial]) -> int:
    """Return how many steps trials take at most; 0 where for one of them only time is bounded."""
    steps = [steps_left(trial) for trial in trials]
    return 0 if None in steps else sum(count or 0 for count in steps)


def _counts(state: State, found: Found, missing: int) -> dict[str, int]:
    """Return how many trials have each outcome, those that had it before and those that have been stopped included."""
    counts = {str(outcome): state.outcomes[outcome] + found.outcomes.get(outcome, 0) for outcome in Outcome}
    return counts | {str(Outcome.CANCELLED): missing - state.finished}


def _close(writer: SweepWriter, counts: Mapping[str, int], measured: Mapping[str, float], storage: Storage) -> None:
    """End the sweep in MLflow. Raises `TrackingUnavailable`, with what to do then."""
    stopped = counts[Outcome.CANCELLED] > 0
    try:
        # The counts of a sweep that goes on another time are those of its runs.
        writer.close("KILLED" if stopped else "FINISHED", {} if stopped else counts, measured)
    except TrackingUnavailable as error:
        if not writer.trouble:
            # It takes what there is, and has lost what there was.
            raise
        count = writer.queued
        wait, them = agreeing(count, "has ended waits", "have ended wait"), agreeing(count, "it", "them")
        raise TrackingUnavailable(
            f"{error}\n{amount(count, 'trial')} that {wait} in {storage.url}: `orchestrate sync {writer.sweep_id}` brings {them} "
            "to MLflow once it is back"
        ) from error


class _Beginning:
    """A sweep that is about to begin, or to be taken up."""

    def __init__(self, grid: Grid, options: Options, store: Store, storage: Storage, record: Mapping[str, Any], found: Found) -> None:
        from orchestrator.tracking.write.parent import new_sweep_id

        self.grid, self.options, self.store, self.storage, self.record, self.found = grid, options, store, storage, record, found
        self.sweep_id = found.sweep.sweep_id if found.sweep else options.sweep_id or new_sweep_id()
        self.tag = layout.recording_tag(record)

    @contextmanager
    def folder(self) -> Iterator[SweepFolder]:
        """Provide the sweep's folder; it goes again if nothing came of the sweep."""
        grid, owner = self.grid, self.store.owner(self.grid.name)
        folder = folder_of(self.storage, grid.name, self.sweep_id, owner)
        fresh = folder.description() is None
        own = (owner.address, self.tag, liveness.machine(), grid.files.names, owner.identity)
        description = Description(self.sweep_id, grid.name, *own)
        described = False
        try:
            folder.describe(description, grid.files.contents)
            described = True
            yield folder
        except BaseException:
            if fresh and not (described and self._begun()):
                with suppress(StorageUnavailable):
                    folder.remove()
            raise

    def _begun(self) -> bool:
        from orchestrator.tracking.read.queries import list_sweeps

        try:
            return any(sweep.sweep_id == self.sweep_id for sweep in list_sweeps(self.store, self.grid.name, count=False))
        except TrackingUnavailable:
            return True

    def writer(self, plan: Plan, cluster: Cluster, folder: SweepFolder, turn: Turn, log: Logged) -> SweepWriter:
        """Return the writer of the sweep."""
        from orchestrator.tracking.write.parent import SweepInfo, TrialRow

        grid, found = self.grid, self.found
        pack_of = {trial.trial_id: pack.name for pack in plan.packs for trial in pack.trials}
        rows = [TrialRow(t.trial_id, t.spec, pack_of.get(t.trial_id), found.reused.get(t.trial_id)) for t in self._trials()]
        info = SweepInfo(
            *(grid.name, self.sweep_id, grid.text, self._files(plan), rows, self.record, self._tags(cluster)),
            history_points=grid.tracking.points,
            detail=detail_of(grid),
            attempts=found.attempts,
        )
        if found.sweep is not None:
            info = replace(info, parent_run_id=found.sweep.parent_run_id, attempt=int(found.sweep.tags.get(layout.ATTEMPT, 1)) + 1)
        patience = self.options.patience
        return SweepWriter(self.store, info, turn=turn, spool=folder.spool, patience=patience, tell=log.note, log=lambda: log.text)

    def settled(self, writer: SweepWriter, log: Logged) -> Found:
        """Return what was found but for trials to be reused that were deleted before others could see that they are: those are its own."""
        from orchestrator.tracking.read.results import vanished
        from orchestrator.tracking.store import translated

        with translated(self.store.display):
            lost = vanished(self.store, self.found.reused)
        if not lost:
            return self.found
        have, they_are = agreeing(len(lost), "has", "have"), agreeing(len(lost), "it is", "they are")
        log.note(f"{len(lost):,} of the trials that were to be reused {have} been deleted meanwhile: {they_are} run")
        writer.keep(lost)
        return self.found.without(lost)

    def _files(self, plan: Plan) -> dict[str, bytes]:
        """Return what lies among the sweep's artifacts as it is."""
        return {layout.PLAN_FILE: json.dumps(plan.as_json(), indent=2).encode(), **code_files(self.grid)}

    def _trials(self) -> Sequence[Trial]:
        """Return the trials in grid order, or, of a sweep that is taken up, in the order in which it has them: places tell their runs."""
        from orchestrator.tracking.read.tables import trial_order

        if self.found.sweep is None:
            return self.grid.trials
        places = {key: place for place, key in enumerate(trial_order(self.store, self.found.sweep.parent_run_id))}
        return sorted(self.grid.trials, key=lambda trial: places.get(trial.trial_id, len(places)))

    def _at_ends(self) -> list[str]:
        """Return the columns that some of its trials have at their ends only; those, too, that it had such before it was taken up."""
        from orchestrator.sweeps.at_ends import columns_at_ends

        before = layout.at_ends(self.found.sweep.tags) if self.found.sweep else ()
        now = columns_at_ends(self.found.at_ends, {trial.trial_id: trial for trial in self.grid.trials})
        return sorted({*before, *now})

    def _tags(self, cluster: Cluster) -> dict[str, str]:
        fresh = {layout.FRESH: "true"} if self.options.fresh else {}
        return fresh | {
            layout.VARIES: json.dumps(self.grid.extent.keys[: layout.MOST_KEYS]),
            layout.REUSE_FROM: json.dumps(list(self.found.others)),
            layout.AT_ENDS: json.dumps(self._at_ends()),
            layout.GRID: str(Path(self.grid.path).absolute()),
            layout.OVERRIDES: json.dumps(self.grid.overrides),
            layout.STORAGE: self.storage.url,
            layout.HOST: socket.gethostname(),
            layout.MACHINE: liveness.machine(),
            layout.PROCESS: liveness.process(),
            layout.JOB: self.options.job or "",
            "orchestrate.ray": cluster.address,
            **layout.versions(),
            # Where a sweep was sent to there may be no such file, or another one.
            **(layout.commit_tags(Path(self.grid.path)) if self.options.commit is None else self.options.commit),
        }


def _announced(grid: Grid, plan: Plan, cluster: Cluster) -> Iterator[str]:
    """Yield what is to run, where, and which trials become runs of MLflow where not all do."""
    gpus = f", {amount(cluster.gpus, 'GPU')}" if cluster.gpus else ""
    ended = plan.ended
    kept = f" and {ended:,} that {agreeing(ended, 'has', 'have')} ended to hand on" if ended else ""
    yield (
        f"{grid.name}: {amount(plan.trials - plan.reused - ended, 'trial')} to run{kept} "
        f"in {amount(len(plan.packs), 'pack')}, {plan.workers} at once "
        f"({amount(cluster.cpus, 'core')}{gpus} on {amount(len(cluster.nodes), 'node')})"
    )
    if (detail := detail_of(grid)).runs != "all":
        yield str(detail)
