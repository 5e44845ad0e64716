"""A sweep from grid to summary: what `orchestrate submit` does. Reads top to bottom in the order in which it happens."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.balance import Board
from orchestrator.dispatch import LARGE_PACK_BYTES, Allotment, Cluster, Workers
from orchestrator.plan import PACK_BYTES, Crew, Plan, make_plan
from workloads.engines.calibration import kept_rates
from workloads.engines.costs import DEFAULTS
from workloads.recording import DEFAULT_MEASURES, Recording
from workloads.results import Finished, Notice, Outcome, Progress

if TYPE_CHECKING:
    from orchestrator.grid import Grid
    from orchestrator.tracking.store import Store
    from orchestrator.tracking.writer import SweepWriter


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
    return Recording(DEFAULT_MEASURES if record.measures is None else tuple(record.measures), record.points, record.steps)


def submit(grid: Grid, reporter: Reporter, *, address: str | None = None, tracking_uri: str | None = None, fresh: bool = False) -> Summary:
    """Run what is missing of ``grid`` and wait for it.

    Raises `orchestrator.errors.UnavailableError` if Ray or MLflow cannot be used; nothing has been created then. On KeyboardInterrupt
    what has ended is logged, the sweep's run is marked as killed, and the exception goes on.
    """
    from orchestrator.tracking.lock import experiment_lock
    from orchestrator.tracking.queries import find_finished

    began = time.monotonic()
    recording = recording_of(grid)
    record = {"points": recording.points, "steps": recording.steps, "measures": list(recording.measures)}
    with ExitStack() as stack:
        cluster, workers, crews, store = stack.enter_context(_connected(grid, recording, address, tracking_uri))
        waiting = f"another process on this machine is submitting to {grid.name!r}: waiting for it to finish"
        stack.enter_context(experiment_lock(store.uri, grid.name, lambda: reporter.note(waiting)))
        ids = [trial.trial_id for trial in grid.trials]
        reused = {} if fresh else find_finished(store, grid.name, ids, record)
        missing = [trial for trial in grid.trials if trial.trial_id not in reused]
        plan = make_plan(missing, recording, grid.resources.engine, _crews(workers, crews, cluster), reused=len(reused))
        if reused:
            reporter.note(f"{len(reused)} of {len(grid.trials)} trials are in MLflow already and are reused")
        writer = stack.enter_context(_writer(grid, store, plan, reused, record, cluster))
        reporter.note(_announcement(grid, plan, cluster))
        state = State(len(grid.trials), len(reused), sum(t.spec.stop.steps or 0 for t in missing))
        board: Board[Any] = Board(plan.packs, time.monotonic)
        _run(workers, board, recording, grid, writer, state, reporter)
        counts = {str(outcome): state.outcomes[outcome] for outcome in Outcome}
        seconds = time.monotonic() - began
        measured = {"idle_share": board.idle_share, "peak_memory_bytes": state.peak_bytes}
        writer.close("FINISHED", {"trials": len(grid.trials), "reused": len(reused), **counts}, {"seconds": seconds, **measured})
        return Summary(
            sweep_id=writer.sweep_id,
            experiment=grid.name,
            trials=len(grid.trials),
            reused=len(reused),
            seconds=round(time.monotonic() - began, 3),
            tracking_uri=store.display,
            parent_run_id=writer.parent_run_id,
            **counts,
        )


@contextmanager
def _connected(
    grid: Grid, recording: Recording, address: str | None, tracking_uri: str | None
) -> Iterator[tuple[Cluster, Workers, list[tuple[Allotment, int]], Store]]:
    """Ray with its workers and MLflow, all or none.

    An embedded cluster cannot be unreachable, so it starts while MLflow opens its store, each taking seconds, and its workers import
    what they need at the same time. A cluster that is elsewhere is reached first: if it is not there, no database may have been created.
    """
    from orchestrator.tracking.store import open_store

    local = (address or os.environ.get("RAY_ADDRESS") or "local") == "local"
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="open-store"))
        opening: Future[Store] | None = pool.submit(open_store, tracking_uri) if local else None
        cluster = stack.enter_context(Cluster.connect(address))
        resources = grid.resources
        large = bool(cluster.gpus) and _is_large(grid, recording)
        crews = cluster.crews(resources.cpus, resources.gpus, len(grid.trials), large)
        workers = stack.enter_context(cluster.hire(crews))
        yield cluster, workers, crews, opening.result() if opening else open_store(tracking_uri)


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


def _writer(grid: Grid, store: Store, plan: Plan, reused: Mapping[str, str], record: Mapping[str, Any], cluster: Cluster) -> SweepWriter:
    from orchestrator.tracking.sweep import SweepInfo, TrialRow, new_sweep_id
    from orchestrator.tracking.writer import SweepWriter

    pack_of = {trial.trial_id: pack.name for pack in plan.packs for trial in pack.trials}
    rows = [TrialRow(t.trial_id, t.spec, pack_of.get(t.trial_id), reused.get(t.trial_id)) for t in grid.trials]
    tags = {
        "orchestrate.grid": grid.path,
        "orchestrate.host": socket.gethostname(),
        "orchestrate.pid": str(os.getpid()),
        "orchestrate.python": platform.python_version(),
        "orchestrate.ray": cluster.address,
    }
    return SweepWriter(store, SweepInfo(grid.name, new_sweep_id(), grid.text, plan.as_json(), rows, record, tags))


def _announcement(grid: Grid, plan: Plan, cluster: Cluster) -> str:
    gpus = f", {cluster.gpus:g} GPUs" if cluster.gpus else ""
    return (
        f"{grid.name}: {plan.trials - plan.reused} trials to run in {len(plan.packs)} packs, {plan.workers} at once "
        f"({cluster.cpus:g} cores{gpus} on {len(cluster.nodes)} node{'s' if len(cluster.nodes) != 1 else ''})"
    )


def _run(
    workers: Workers, board: Board[Any], recording: Recording, grid: Grid, writer: SweepWriter, state: State, reporter: Reporter
) -> None:
    """Run the packs, hand results to the writer, and wait until it has written them all."""
    from orchestrator.tracking import layout

    budgets = {trial.trial_id: trial.spec.stop.steps or 0 for trial in grid.trials}
    meter = _Meter()
    for name, event in workers.run(board, recording, grid.files):
        match event:
            case Progress():
                state.steps += event.steps
                state.rate = meter.rate(state.steps)
            case Finished():
                for result in event.results:
                    state.outcomes[result.outcome] += 1
                    state.settled_steps += max(0, budgets[result.trial_id] - result.steps)
                state.peak_bytes = max(state.peak_bytes, event.peak_bytes)
                writer.add(name, event.results, {layout.ENGINE: event.engine, layout.DEVICE: event.device} if event.engine else {})
            case Notice():
                reporter.note(f"{name}: {event.text}" if name else event.text)
            case _:
                pass
        state.logged = writer.done
        reporter.update(state)
    while writer.queued:
        time.sleep(0.1)
        state.logged, state.rate = writer.done, 0.0
        reporter.update(state)
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
