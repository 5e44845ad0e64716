"""A sweep from grid to summary: what `orchestrate submit` does. Reads top to bottom in the order in which it happens."""

from __future__ import annotations

import json
import math
import os
import platform
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator import liveness
from orchestrator.balance import Board
from orchestrator.dispatch import LARGE_PACK_BYTES, Allotment, Cluster, Workers
from orchestrator.errors import StorageUnavailable, TrackingUnavailable
from orchestrator.events import Ended, Event, Lost, Saved
from orchestrator.plan import PACK_BYTES, Crew, Pack, Plan, make_plan, steps_left
from orchestrator.recovery import Recovery
from orchestrator.storage.base import Storage, open_storage
from orchestrator.storage.checkpoints import EVERY, Keeping
from orchestrator.storage.sweeps import Description, SweepFolder
from orchestrator.tracking import layout
from orchestrator.tracking.writer import PATIENCE, SweepWriter
from workloads.engines.calibration import kept_rates
from workloads.engines.costs import DEFAULTS
from workloads.recording import DEFAULT_MEASURES, Recording
from workloads.results import Finished, HandedOver, Notice, Outcome, Progress, TrialResult

if TYPE_CHECKING:
    from orchestrator.grid import Grid
    from orchestrator.takeup import Found
    from orchestrator.tracking.store import Store


CANCEL_SECONDS = 3.0
"""How often a sweep looks whether it has been cancelled."""
SAVE_SECONDS = 30.0
"""How long a sweep that is stopped waits for its workers' last checkpoints."""
MACHINE_SECONDS = 30.0
"""How long planning waits for a worker to say how fast it is."""


@dataclass(frozen=True)
class Summary:
    """How a sweep ended; what ``submit --json`` prints."""

    sweep_id: str
    experiment: str
    trials: int
    converged: int
    exhausted: int
    diverged: int
    failed: int
    cancelled: int
    reused: int
    seconds: float
    tracking_uri: str
    parent_run_id: str


@dataclass
class State:
    """How far a sweep is: trials by outcome, trial-steps, and what MLflow has of it."""

    trials: int
    reused: int
    budget: int
    """Trial-steps if every trial takes all its steps; 0 where that is not known."""
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    steps: int = 0
    rate: float = 0.0
    """Trial-steps per second, over the last seconds."""
    logged: int = 0
    peak_bytes: int = 0
    """Most memory that any worker has used, of its GPU or in its process."""
    settled_steps: int = 0
    """Steps that finished trials did not need after all: they count as done."""

    @property
    def finished(self) -> int:
        """Trials that have ended in this sweep."""
        return sum(self.outcomes.values())


class Reporter(Protocol):
    """Where a sweep says how it goes."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def update(self, state: State) -> None:
        """Called several times a second while packs run."""


def recording_of(grid: Grid) -> Recording:
    """What the grid's ``record`` asks for."""
    record = grid.record
    names = DEFAULT_MEASURES if record.measures is None else tuple(record.measures)
    return Recording(names, record.points, record.steps, record.checkpoint_steps, record.checkpoint_losses)


@dataclass(frozen=True)
class Options:
    """Where a sweep runs and what becomes of what it finds; ``None`` where the environment, or else a default, decides.

    ``fresh`` runs trials that MLflow has already. ``every`` is the seconds between checkpoints, ``patience`` the seconds to wait, once all
    is computed, for an MLflow that takes nothing. ``workers`` is how many packs run at once, by default as many as there is room for. A
    sweep that was sent to a cluster has its ``sweep_id`` already, and the ``job`` in which it runs, with the cluster's address.
    """

    address: str | None = None
    tracking_uri: str | None = None
    storage: str | None = None
    fresh: bool = False
    every: float = EVERY
    patience: float = PATIENCE
    workers: int | None = None
    sweep_id: str | None = None
    job: str | None = None


class _Logged:
    """A reporter that also keeps what it was told, for `orchestrate logs`."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._lines: list[str] = []

    def note(self, text: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        self._lines += [f"{now}  {line}" for line in text.splitlines()]
        self._reporter.note(text)

    def update(self, state: State) -> None:
        self._reporter.update(state)

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines)


class Stop:
    """Somebody wants a sweep to end, and to be gone on with later. Only ``heard`` while there is something to be saved."""

    def __init__(self) -> None:
        self.wanted = False
        self.heard = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While packs are in training."""
        self.heard = True
        try:
            yield
        finally:
            self.heard = False


def submit(grid: Grid, reporter: Reporter, options: Options | None = None, stop: Stop | None = None) -> Summary:
    """Run what is missing of ``grid`` and wait for it.

    A sweep of the same trials that stopped short is taken up; trials that any sweep of the experiment had begun go on from their
    checkpoints. Raises `orchestrator.errors.UnavailableError` if Ray, MLflow or the storage cannot be used; if that is so at the start,
    nothing has been created. When ``stop`` is wanted, or KeyboardInterrupt comes, what has ended is logged and the sweep's run is
    marked as killed; with ``stop`` the others are saved, too, and counted as cancelled.
    """
    from orchestrator.takeup import find
    from orchestrator.tracking.lock import experiment_lock

    began = time.monotonic()
    options, stop, logged = options or Options(), stop or Stop(), _Logged(reporter)
    recording = recording_of(grid)
    record = asdict(recording) | {"measures": list(recording.measures)}
    storage = open_storage(options.storage)
    with ExitStack() as stack:
        cluster, workers, crews, store = stack.enter_context(_connected(grid, recording, options, logged))
        waiting = f"another process on this machine is submitting to {grid.name!r}: waiting for it to finish"
        stack.enter_context(experiment_lock(store.uri, grid.name, lambda: logged.note(waiting)))
        trials = {trial.trial_id: trial for trial in grid.trials}
        found = find(store, storage, grid.name, trials, record, options.fresh)
        missing = found.missing(trials)
        plan = make_plan(missing, recording, grid.resources.engine, _crews(workers, crews, cluster), reused=len(found.finished))
        for text in found.notes(len(trials)):
            logged.note(text)
        job = _Job(grid, options, store, storage, record, found)
        # Before MLflow hears of it: what cannot be kept is not begun.
        folder = stack.enter_context(job.folder())
        writer = stack.enter_context(job.writer(plan, cluster, folder, logged))
        logged.note(_announcement(grid, plan, cluster))
        state = State(len(trials), len(found.finished), sum(steps_left(trial) or 0 for trial in missing))
        board: Board[Any] = Board(plan.packs, time.monotonic)
        recovery = Recovery(board, folder.checkpoints(job.tag))
        with stop.listening(), _watched(store, writer.parent_run_id, stop):
            _run(workers, board, recovery, recording, grid, writer, state, logged, folder.keeping(job.tag, options.every), stop)
        counts = {str(outcome): state.outcomes[outcome] + found.outcomes.get(outcome, 0) for outcome in Outcome}
        counts[Outcome.CANCELLED] = len(missing) - state.finished
        known = {"trials": len(trials), "reused": len(found.reused)}
        measured = {"seconds": time.monotonic() - began, "idle_share": board.idle_share, "peak_memory_bytes": state.peak_bytes}
        _close(writer, {**known, **counts}, measured, storage)
        if not counts[Outcome.CANCELLED]:
            found.clear(trials)
            folder.remove()
        return Summary(
            sweep_id=writer.sweep_id,
            experiment=grid.name,
            trials=len(trials),
            reused=len(found.reused),
            seconds=round(time.monotonic() - began, 3),
            tracking_uri=store.display,
            parent_run_id=writer.parent_run_id,
            **{str(outcome): counts[outcome] for outcome in Outcome},
        )


def _close(writer: SweepWriter, counts: Mapping[str, int], measured: Mapping[str, float], storage: Storage) -> None:
    """End the sweep in MLflow. Raises `TrackingUnavailable`, with what to do then."""
    stopped = counts[Outcome.CANCELLED] > 0
    try:
        # The counts of a sweep that goes on another time are those of its runs.
        writer.close("KILLED" if stopped else "FINISHED", {} if stopped else counts, measured)
    except TrackingUnavailable as error:
        raise TrackingUnavailable(
            f"{error}\n{writer.queued} trials that have ended wait in {storage.url}: `orchestrate sync {writer.sweep_id}` brings them "
            "to MLflow once it is back"
        ) from error


class _Job:
    """A sweep that is about to begin, or to be taken up."""

    def __init__(self, grid: Grid, options: Options, store: Store, storage: Storage, record: Mapping[str, Any], found: Found) -> None:
        from orchestrator.tracking.sweep import new_sweep_id

        self.grid, self.options, self.store, self.storage, self.record, self.found = grid, options, store, storage, record, found
        self.sweep_id = found.sweep.sweep_id if found.sweep else options.sweep_id or new_sweep_id()
        self.tag = layout.record_tag(record)

    @contextmanager
    def folder(self) -> Iterator[SweepFolder]:
        """The sweep's folder; it goes again if nothing came of the sweep."""
        grid, folder = self.grid, SweepFolder(self.storage, self.grid.name, self.sweep_id)
        fresh = folder.description() is None
        description = Description(self.sweep_id, grid.name, self.store.display, self.tag, liveness.machine(), grid.file_names)
        described = False
        try:
            folder.describe(description, grid.files)
            described = True
            yield folder
        except BaseException:
            if fresh and not (described and self._begun()):
                with suppress(StorageUnavailable):
                    folder.remove()
            raise

    def _begun(self) -> bool:
        from orchestrator.tracking.queries import list_sweeps

        try:
            return any(sweep.sweep_id == self.sweep_id for sweep in list_sweeps(self.store, self.grid.name, count=False))
        except TrackingUnavailable:
            return True

    def writer(self, plan: Plan, cluster: Cluster, folder: SweepFolder, log: _Logged) -> SweepWriter:
        """The writer of the sweep."""
        from orchestrator.tracking.sweep import SweepInfo, TrialRow

        grid, found = self.grid, self.found
        pack_of = {trial.trial_id: pack.name for pack in plan.packs for trial in pack.trials}
        rows = [TrialRow(t.trial_id, t.spec, pack_of.get(t.trial_id), found.reused.get(t.trial_id)) for t in grid.trials]
        info = SweepInfo(
            grid.name, self.sweep_id, grid.text, plan.as_json(), rows, self.record, self._tags(cluster), attempts=found.attempts
        )
        if found.sweep is not None:
            info = replace(info, parent_run_id=found.sweep.parent_run_id, attempt=int(found.sweep.tags.get(layout.ATTEMPT, 1)) + 1)
        return SweepWriter(self.store, info, spool=folder.spool, patience=self.options.patience, tell=log.note, log=lambda: log.text)

    def _tags(self, cluster: Cluster) -> dict[str, str]:
        fresh = {layout.FRESH: "true"} if self.options.fresh else {}
        return fresh | {
            layout.GRID: str(Path(self.grid.path).absolute()),
            layout.OVERRIDES: json.dumps(self.grid.overrides),
            layout.STORAGE: self.storage.url,
            layout.HOST: socket.gethostname(),
            layout.MACHINE: liveness.machine(),
            layout.PROCESS: liveness.process(),
            layout.JOB: self.options.job or "",
            "orchestrate.python": platform.python_version(),
            "orchestrate.ray": cluster.address,
        }


@contextmanager
def _connected(
    grid: Grid, recording: Recording, options: Options, reporter: Reporter
) -> Iterator[tuple[Cluster, Workers, list[tuple[Allotment, int]], Store]]:
    """Ray with its workers and MLflow, all or none.

    An embedded cluster cannot be unreachable, so it starts while MLflow opens its store, each taking seconds, and its workers import
    what they need at the same time. A cluster that is elsewhere is reached first: if it is not there, no database may have been created.
    """
    from orchestrator.tracking.store import open_store

    local = (options.address or os.environ.get("RAY_ADDRESS") or "local") == "local"
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="open-store"))
        opening: Future[Store] | None = pool.submit(open_store, options.tracking_uri) if local else None
        cluster = stack.enter_context(Cluster.connect(options.address))
        resources = grid.resources
        large = bool(cluster.gpus) and _is_large(grid, recording)
        crews = cluster.crews(resources.cpus, resources.gpus, len(grid.trials), large, workers=options.workers, tell=reporter.note)
        workers = stack.enter_context(cluster.hire(crews))
        yield cluster, workers, crews, opening.result() if opening else open_store(options.tracking_uri)


def _is_large(grid: Grid, recording: Recording) -> bool:
    """Whether some pack would fill a good part of a GPU."""
    plan = make_plan(grid.trials, recording, "batched", [Crew(1, "cuda", DEFAULTS["cuda"], 2 * LARGE_PACK_BYTES)])
    return any(pack.bytes >= LARGE_PACK_BYTES for pack in plan.packs)


def _crews(workers: Workers, hired: Sequence[tuple[Allotment, int]], cluster: Cluster) -> list[Crew]:
    """Who is to run the sweep and how fast they are: as they say themselves, or as this machine is known to be."""
    kept = kept_rates()
    here = cluster.address == "local" and kept is not None and not cluster.gpus
    machines = {allotment: machine for machine, allotment in workers.machines(0.0 if here else MACHINE_SECONDS)}
    crews: dict[str, Crew] = {}
    for allotment, count in hired:
        machine = machines.get(allotment)
        device = machine.device if machine else "cuda" if allotment.gpus else "cpu"
        rates = machine.rates if machine else (kept if device == "cpu" else None) or DEFAULTS[device]
        crew = Crew(count, device, rates, machine.memory if machine else PACK_BYTES)
        # A GPU that torch does not see leaves cores.
        crews[device] = replace(crew, workers=crews[device].workers + count) if device in crews else crew
    return list(crews.values())


def _announcement(grid: Grid, plan: Plan, cluster: Cluster) -> str:
    gpus = f", {cluster.gpus:g} GPUs" if cluster.gpus else ""
    return (
        f"{grid.name}: {plan.trials - plan.reused} trials to run in {len(plan.packs)} packs, {plan.workers} at once "
        f"({cluster.cpus:g} cores{gpus} on {len(cluster.nodes)} node{'s' if len(cluster.nodes) != 1 else ''})"
    )


@contextmanager
def _watched(store: Store, parent_run_id: str, stop: Stop) -> Iterator[None]:
    """Look every few seconds whether somebody, on whatever machine, has asked for the sweep's end."""

    over = threading.Event()

    def look() -> None:
        while not over.wait(CANCEL_SECONDS):
            # A store that is down has nothing to say.
            with suppress(Exception):
                if layout.CANCEL in store.client.get_run(parent_run_id).data.tags:
                    stop.wanted = True
                    return

    thread = threading.Thread(target=look, name="cancel-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def _run(
    workers: Workers,
    board: Board[Any],
    recovery: Recovery,
    recording: Recording,
    grid: Grid,
    writer: SweepWriter,
    state: State,
    reporter: Reporter,
    keeping: Keeping,
    stop: Stop,
) -> None:
    """Run the packs and hand results to the writer, until all have come out, or until all is saved because a stop is wanted."""
    budgets = {trial.trial_id: trial.spec.stop.steps or 0 for trial in grid.trials}
    meter, deadline = _Meter(), math.inf
    for pack, event in workers.run(board, recording, grid.files, keeping):
        if isinstance(event, Progress):
            state.steps += event.steps
            state.rate = meter.rate(state.steps)
        elif isinstance(event, Finished):
            assert pack is not None
            for result in event.results:
                state.outcomes[result.outcome] += 1
                state.settled_steps += max(0, budgets[result.trial_id] - result.steps)
            state.peak_bytes = max(state.peak_bytes, event.peak_bytes)
            writer.add(pack.name, event.results, {layout.ENGINE: event.engine, layout.DEVICE: event.device} if event.engine else {})
        elif event is not None:
            _attend(pack, event, recovery, writer, state, reporter)
        if stop.wanted and deadline == math.inf:
            deadline = time.monotonic() + SAVE_SECONDS
            reporter.note("stopping: trials are being saved")
            workers.stop()
        if time.monotonic() > deadline:
            reporter.note("some workers did not save their trials in time: those go on from earlier checkpoints")
            break
        state.logged = writer.done
        reporter.update(state)
    if not stop.wanted:
        _see_written(writer, state, reporter)
    reporter.update(state)


def _attend(pack: Pack | None, event: Event, recovery: Recovery, writer: SweepWriter, state: State, reporter: Reporter) -> None:
    """Do what is to be done about what is not a result."""
    text = None
    if isinstance(event, Notice):
        text = event.text
    elif pack is not None:
        match event:
            case Saved():
                text = recovery.saved(pack, event)
            case HandedOver() if event.trials:
                text = recovery.handed_over(pack)
            case Ended(stopped=False):
                recovery.ended(pack)
            case Lost():
                failed, text = recovery.lost(pack, event)
                now = time.time()
                state.outcomes[Outcome.FAILED] += len(failed)
                writer.add(pack.name, [TrialResult.failure(trial.trial_id, event.error, now, now) for trial in failed])
            case _:
                pass
    if text:
        reporter.note(f"{pack.name}: {text}" if pack is not None else text)


def _see_written(writer: SweepWriter, state: State, reporter: Reporter) -> None:
    """Show how far the writing is, as long as it goes on."""
    while writer.queued and not writer.trouble:
        time.sleep(0.1)
        state.logged, state.rate = writer.done, 0.0
        reporter.update(state)


class _Meter:
    """Trial-steps per second over the last few seconds."""

    WINDOW = 5.0

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def rate(self, steps: int) -> float:
        now = time.monotonic()
        self._seen.append((now, steps))
        while len(self._seen) > 2 and now - self._seen[1][0] > self.WINDOW:
            self._seen.pop(0)
        (then, before), elapsed = self._seen[0], now - self._seen[0][0]
        return (steps - before) / elapsed if elapsed > 0 and now > then else 0.0
