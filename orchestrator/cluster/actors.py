"""Worker processes on a cluster: Ray actors, started, waited for, named and dismissed."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.cluster import warm
from orchestrator.cluster.remote_worker import RemoteWorker
from orchestrator.cluster.sharing import NAMESPACE, WorkerName
from orchestrator.cluster.sizing import Allotment
from orchestrator.errors import storable
from orchestrator.execution.events import Cause
from orchestrator.extensions import Carried
from orchestrator.planning.pack import Pack
from orchestrator.storage.checkpoints import Checkpointing
from orchestrator.tracking.uris import redact
from workloads.engines.calibration import Machine
from workloads.training.recording import Recording

PROGRESS_SECONDS = 0.2
"""How often a worker tells how far it is, where there are few."""
MISSES = 6
"""Workers in a row that may fail to come up before no more are tried."""
SAID = 12
"""Lines of what Ray says of a worker's end."""
PROCESSES = re.compile(r"\s*(Considered workers|Top \d+ memory users|PID\s)")
"""Where Ray begins to list processes, of whoever they are, with their command lines."""


@dataclass(frozen=True)
class _Missing:
    """A worker that did not come up or has died: when to start another one, and what it asks of the cluster."""

    due: float
    allotment: Allotment


class Actors:
    """The worker processes of a sweep: those that are ``coming``, by what tells of their arrival, and those that are up, by `machines`.

    ``worker`` is their class; each tells its progress every ``progress_seconds``. All handles are Ray's.
    """

    def __init__(self, worker: type[RemoteWorker] | None = None, progress_seconds: float = PROGRESS_SECONDS) -> None:
        import ray

        self._progress_seconds = progress_seconds
        self._warm = worker is None
        # Two groups: a worker must hear a request while it trains.
        self._class = ray.remote(concurrency_groups={"requests": 1})(worker or RemoteWorker)
        self._serial = itertools.count()
        self.driver: str = ray.get_runtime_context().get_job_id()
        self.coming: dict[Any, Any] = {}
        self.machines: dict[Any, Machine] = {}
        self.allotments: dict[Any, Allotment] = {}
        self._adopted: set[Any] = set()
        self._missing: list[_Missing] = []
        self._misses = 0
        self.failure = ""

    @property
    def expected(self) -> bool:
        """True if a worker comes up, or will be tried again."""
        return bool(self.coming or self._missing)

    @property
    def awaited(self) -> list[Allotment]:
        """What the workers ask of the cluster that come up or will be tried again."""
        return [*(self.allotments[worker] for worker in self.coming.values()), *(missing.allotment for missing in self._missing)]

    def hire(self, allotment: Allotment, count: int) -> None:
        """Have so many workers come up: such as are warm, and new ones."""
        there = warm.found(allotment, self.allotments)[:count] if self._warm else []
        owner = warm.Owner.here(self.driver, self._progress_seconds) if there else None
        for worker in there:
            self._adopted.add(worker)
            self.allotments[worker] = allotment
            self.coming[warm.call(worker, "adopt", owner)] = worker
        for _ in range(count - len(there)):
            self.start(allotment)

    def start(self, allotment: Allotment) -> None:
        """Start a worker; it is one of ``coming`` from now on."""
        worker = self._class.options(
            num_cpus=allotment.cpus,
            num_gpus=allotment.gpus,
            max_restarts=0,
            name=WorkerName(self.driver, allotment, next(self._serial)).name,
            namespace=NAMESPACE,
        ).remote(allotment.cpus, allotment.gpus, self._progress_seconds)
        self.allotments[worker] = allotment
        self.coming[worker.warm.remote()] = worker

    def start_soon(self, allotment: Allotment) -> None:
        """Let `start_missing` start a worker."""
        self._missing.append(_Missing(time.monotonic(), allotment))

    def start_missing(self) -> None:
        """Start the workers whose time it is: instead of those that did not come up, or have died."""
        now = time.monotonic()
        due, self._missing = [m for m in self._missing if m.due <= now], [m for m in self._missing if m.due > now]
        for missing in due:
            self.start(missing.allotment)

    def arrive(self, reference: Any) -> Any:
        """Return the worker that is up now; ``None`` where it did not come up: then another one will be tried, a few times."""
        import ray

        worker = self.coming.pop(reference)
        try:
            machine = ray.get(reference)
            if machine is None:
                # Another sweep was quicker to adopt it.
                self._adopted.discard(worker)
                self.start(self.allotments.pop(worker))
                return None
            self.machines[worker] = machine
        except ray.exceptions.RayError as error:
            self.failure = words_of(error)
            self._misses += 1
            if self._misses <= MISSES:
                wait = min(30.0, 2.0 ** (self._misses - 1))
                self._missing.append(_Missing(time.monotonic() + wait, self.allotments[worker]))
            self.dismiss(worker)
            return None
        self._misses = 0
        return worker

    def first_of_each(self, seconds: float) -> list[tuple[Machine, Allotment]]:
        """Return what workers compute on: the first to answer of each allotment, waiting ``seconds`` at most for one of them."""
        import ray

        until = time.monotonic() + seconds
        while self.coming:
            wanted = set(self.allotments.values()) - {self.allotments[w] for w in self.machines}
            left = until - time.monotonic()
            if not wanted or left <= 0:
                break
            ready, _ = ray.wait(list(self.coming), num_returns=1, timeout=left)
            for reference in ready:
                self.arrive(reference)
        seen = {self.allotments[worker]: machine for worker, machine in self.machines.items()}
        return [(machine, allotment) for allotment, machine in seen.items()]

    def dismiss(self, worker: Any, *, busy: bool = True) -> None:
        """Have nothing more to do with a worker, which may be unreachable and still compute if it is ``busy``."""
        import ray

        del self.allotments[worker]
        self.machines.pop(worker, None)
        adopted = worker in self._adopted
        self._adopted.discard(worker)
        if not (adopted and not busy and warm.released(worker)):
            ray.kill(worker)

    def dismiss_coming(self, allotment: Allotment, count: int) -> None:
        """Dismiss so many of the workers of a kind that have not come up yet."""
        for reference in [ref for ref, worker in self.coming.items() if self.allotments[worker] == allotment][:count]:
            self.dismiss(self.coming.pop(reference))

    def ask(self, worker: Any) -> None:
        """Ask a worker for half of what it has."""
        worker.ask.options(concurrency_group="requests").remote()

    def stop(self, worker: Any) -> None:
        """Let a worker end with a last checkpoint."""
        worker.stop.options(concurrency_group="requests").remote()

    def train(self, worker: Any, pack: Pack | Carried, recording: Recording, files: Any, checkpointing: Checkpointing | None) -> Any:
        """Give a worker a pack. Returns the stream of its events."""
        # Not retried by Ray, which would replay the stream from its first event.
        return worker.run.options(num_returns="streaming", max_task_retries=0).remote(pack, recording, files, checkpointing)

    def names(self) -> Sequence[WorkerName]:
        """Return the names of all sweeps' workers on the cluster, but those that were adopted here. Raises what Ray raises if its head
        does not answer.
        """
        return [*sweep_workers(), *warm.claims(self._adopted)]


def sweep_workers() -> list[WorkerName]:
    """Return the names of the workers that sweeps have started. Raises what Ray raises if its head does not answer."""
    import ray

    actors = ray.util.list_named_actors(all_namespaces=True)
    found = [WorkerName.parse(actor["name"]) for actor in actors if actor["namespace"] == NAMESPACE]
    return [name for name in found if name is not None]


def cause_of(error: Exception) -> Cause:
    """Return why a worker died, as far as Ray says."""
    import ray

    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return Cause.MEMORY
    # A node that has just died is unavailable before Ray gives it up; one that is drained says so in an attribute alone.
    if isinstance(error, ray.exceptions.ActorUnavailableError) or getattr(error, "preempted", False) or "node has died" in str(error):
        return Cause.NODE
    return Cause.CRASH


def words_of(error: Exception) -> str:
    """Return what Ray says of a worker's end, in `SAID` lines at most, and nothing of other processes."""
    lines = [line.rstrip() for line in redact(storable(str(error))).splitlines() if line.strip()]
    kept = list(itertools.takewhile(lambda line: not PROCESSES.match(line), lines))
    if len(kept) > SAID:
        # The first lines say whose end it is, the last ones of a traceback what has happened.
        kept = [*kept[: SAID // 2], "...", *kept[len(kept) - SAID // 2 + 1 :]]
    return "\n".join([f"{type(error).__name__}: {kept[0] if kept else ''}", *kept[1:]])
