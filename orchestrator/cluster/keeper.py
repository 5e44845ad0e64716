"""The process that keeps a local cluster and its warm workers: ``python -m orchestrator.cluster.keeper '{"workers": …}'``."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil

from orchestrator import liveness
from orchestrator.cluster import kept, private, warm
from orchestrator.cluster.actors import PROGRESS_SECONDS, sweep_workers
from orchestrator.cluster.build import build
from orchestrator.cluster.connection import Cluster
from orchestrator.cluster.kept import Kept
from orchestrator.cluster.scratch import scratch_folder, socket_base
from orchestrator.cluster.sharing import NAMESPACE, WorkerName
from orchestrator.cluster.sizing import Allotment, crews_for
from orchestrator.errors import OrchestratorError

ROUND_SECONDS = 0.5
"""How often workers are looked after."""
SILENT_SECONDS = 60.0
"""How long a worker may say nothing: it imports for seconds, and its machine may be busy."""
SAVING_SECONDS = 45.0
"""How long sweeps are waited for when the cluster is to end. They save for half a minute at most."""
SAID_SECONDS = 10.0
"""By how much the end may move before it is said again."""
FIRST_SECONDS = 60.0
"""How long `up` waits for the first workers."""


@dataclass(frozen=True)
class Care:
    """What is to be done about warm workers: how many to ``start`` of each kind, and how many ``cpus`` and ``gpus`` to make free."""

    start: Mapping[Allotment, int]
    cpus: float = 0.0
    gpus: float = 0.0


def care(wanted: Mapping[Allotment, int], there: Mapping[Allotment, int], claims: Sequence[WorkerName], cpus: float, gpus: float) -> Care:
    """Return what to do for as many warm workers as are ``wanted``, where some are ``there`` and sweeps have workers of their own, up or
    waiting, on a cluster of so many ``cpus`` and ``gpus``. What sweeps start themselves comes first.
    """
    taken = Counter(there)
    taken.update(claim.allotment for claim in claims)
    free_cpus = cpus - sum(kind.cpus * count for kind, count in taken.items())
    free_gpus = gpus - sum(kind.gpus * count for kind, count in taken.items())
    if free_cpus < 0 or free_gpus < 0:
        return Care({}, max(0.0, -free_cpus), max(0.0, -free_gpus))
    start = {}
    for kind, count in wanted.items():
        start[kind] = 0
        while start[kind] < count - there.get(kind, 0) and kind.cpus <= free_cpus and kind.gpus <= free_gpus:
            start[kind] += 1
            free_cpus, free_gpus = free_cpus - kind.cpus, free_gpus - kind.gpus
    return Care({kind: count for kind, count in start.items() if count})


class Keeper:
    """Keeps ``wanted`` workers warm on a cluster that this process is connected to."""

    def __init__(self, cluster: Cluster, wanted: Mapping[Allotment, int]) -> None:
        import ray

        self._cluster, self._wanted = cluster, wanted
        self._class = ray.remote(concurrency_groups={"requests": 1})(warm.WarmWorker)
        self._serial = itertools.count()
        self._workers: dict[Any, Allotment] = {}
        self._owners: dict[Any, str] = {}
        self._silent: dict[Any, float] = {}
        self.sweeps = 0

    @property
    def workers(self) -> int:
        """How many are up."""
        return len(self._owners)

    def look(self) -> None:
        """Start what is missing, and make room for what sweeps start themselves. Raises what Ray raises if its head is gone."""
        self._ask()
        claims = sweep_workers()
        self.sweeps = len({claim.driver for claim in claims} | {owner for owner in self._owners.values() if owner})
        due = care(self._wanted, Counter(self._workers.values()), claims, self._cluster.cpus, self._cluster.gpus)
        for kind, count in due.start.items():
            for _ in range(count):
                self._start(kind)
        cpus, gpus = due.cpus, due.gpus
        for worker, kind in list(self._workers.items()):
            if self._owners.get(worker) == "" and ((cpus > 0 and kind.cpus) or (gpus > 0 and kind.gpus)) and self._retire(worker):
                cpus, gpus = cpus - kind.cpus, gpus - kind.gpus

    def _start(self, kind: Allotment) -> None:
        worker = self._class.options(
            num_cpus=kind.cpus,
            num_gpus=kind.gpus,
            max_restarts=0,
            name=warm.WarmName(build(), kind, next(self._serial)).name,
            namespace=NAMESPACE,
        ).remote(kind.cpus, kind.gpus, PROGRESS_SECONDS)
        self._workers[worker] = kind
        # It imports what it needs, and looks at what it computes on.
        worker.warm.remote()

    def _ask(self) -> None:
        """Ask all workers whose they are; forget those that are gone, and end those that are nobody's and silent."""
        import ray

        asked = {warm.call(worker, "owner"): worker for worker in self._workers}
        ready, waiting = ray.wait(list(asked), num_returns=len(asked), timeout=warm.ANSWER_SECONDS) if asked else ([], [])
        for reference in ready:
            worker = asked[reference]
            self._silent.pop(worker, None)
            try:
                self._owners[worker] = ray.get(reference)
            except ray.exceptions.RayError:
                self._forget(worker)
        now = time.monotonic()
        for reference in waiting:
            worker = asked[reference]
            if now - self._silent.setdefault(worker, now) > SILENT_SECONDS and not self._owners.get(worker):
                self._end(worker)

    def _retire(self, worker: Any) -> bool:
        """End a worker unless a driver was quicker. Returns whether it ends."""
        import ray

        with suppress(ray.exceptions.RayError):
            if not ray.get(warm.call(worker, "retire"), timeout=warm.ANSWER_SECONDS):
                return False
        self._end(worker)
        return True

    def _end(self, worker: Any) -> None:
        import ray

        self._forget(worker)
        ray.kill(worker)

    def _forget(self, worker: Any) -> None:
        del self._workers[worker]
        self._owners.pop(worker, None)
        self._silent.pop(worker, None)


@contextmanager
def served(command: Sequence[str]) -> Iterator[Callable[[], str]]:
    """Run a command that serves at a socket, ``{}`` in it, and ends with its standard input. Provides the socket, empty once it is not
    served.
    """
    with scratch_folder(socket_base()) as folder:
        path = str(folder / "commands")
        process = subprocess.Popen([part.replace("{}", path) for part in command], stdin=subprocess.PIPE) if command else None
        try:
            yield lambda: path if process is not None and process.poll() is None else ""
        finally:
            if process is not None:
                process.communicate()


def keep(workers: int | None, idle_seconds: float, beside: Sequence[str]) -> None:
    """Keep a cluster until nobody has used it for a while, or a signal comes, and a server ``beside`` it.

    Raises `RayUnavailable` if it does not start or is gone.
    """
    with served(beside) as commands, Cluster.connect("local") as cluster:
        import ray

        wanted = dict(crews_for(cluster, 1, "auto", sys.maxsize, workers=workers))
        keeper = Keeper(cluster, wanted)
        address = ray.get_runtime_context().gcs_address
        keeper.look()
        until = time.monotonic() + FIRST_SECONDS
        while keeper.workers < sum(wanted.values()) and time.monotonic() < until:
            keeper.look()
        parts = (address, liveness.process(), liveness.machine(), build(), cluster.cpus, cluster.gpus)
        said, used = None, time.monotonic()
        try:
            while (left := used + idle_seconds - time.monotonic()) > 0:
                now = Kept(*parts, workers=keeper.workers, sweeps=keeper.sweeps, ends=time.time() + left, commands=commands())
                if said is None or _differ(said, now):
                    kept.save(now)
                    said = now
                time.sleep(ROUND_SECONDS)
                keeper.look()
                if keeper.sweeps:
                    used = time.monotonic()
        finally:
            kept.forget()
            _end_sweeps()


def _end_sweeps() -> None:
    """Let sweeps save what they have, and end: of a Ray that vanishes they would only know that it has."""
    there = private.drivers()
    for pid in there:
        with suppress(OSError):
            os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + SAVING_SECONDS
    while time.monotonic() < until and any(psutil.pid_exists(pid) for pid in there):
        time.sleep(0.1)


def _differ(said: Kept, now: Kept) -> bool:
    return (said.workers, said.sweeps, said.commands) != (now.workers, now.sweeps, now.commands) or abs(said.ends - now.ends) > SAID_SECONDS


def _end(*_: object) -> None:
    raise SystemExit(0)


def main() -> None:
    """Keep a cluster, as the first argument says, in JSON."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        keep(**json.loads(sys.argv[1]))
    except OrchestratorError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
