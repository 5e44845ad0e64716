"""Workers that are up before a sweep wants them, and that it gives back: those of a cluster that `orchestrate up` keeps.

They belong to the process that keeps the cluster (`orchestrator.cluster.keeper`). A driver adopts those that have its own code and what it
wants of a cluster, by their names, and uses them as workers of its own. One whose driver is gone ends itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from orchestrator import liveness
from orchestrator.cluster.build import build
from orchestrator.cluster.remote_worker import RemoteWorker
from orchestrator.cluster.sharing import NAMESPACE, WorkerName
from orchestrator.cluster.sizing import Allotment
from workloads.engines.calibration import Machine

WARM = "warm"
"""What the names of these workers begin with."""
LARGEST = 1 << 30
"""Bytes of memory up to which a worker is used again: what packs have left in it, no other sweep is to go without."""
WATCH_SECONDS = 1.0
"""How often a worker looks whether its driver is there."""
ANSWER_SECONDS = 2.0
"""How long a worker may take to say a word."""
PRIVATE = ("RAY_", "CUDA_", "LD_", "PYTHON", "TMPDIR")
"""What the variables begin with that are a worker's own: Ray's, the GPU it was given, how it was started."""


@dataclass(frozen=True)
class WarmName:
    """The name of a warm worker: of which `build` it is, what it has of the cluster, and its ``number``."""

    build: str
    allotment: Allotment
    number: int

    @property
    def name(self) -> str:
        """The name by which drivers see it."""
        return f"{WARM} {self.build} {self.allotment.cpus:g} {self.allotment.gpus:g} {self.number}"

    @classmethod
    def parse(cls, name: str) -> WarmName | None:
        """Return what a name says; ``None`` if it is no warm worker's."""
        try:
            warm, made, cpus, gpus, number = name.split()
            return cls(made, Allotment(float(cpus), float(gpus)), int(number)) if warm == WARM else None
        except ValueError:
            return None


@dataclass(frozen=True)
class Owner:
    """Whose a worker is: a ``driver``, by its Ray job, and its ``process``; and how it is to work: with which environment."""

    driver: str
    process: str
    progress_seconds: float
    environment: Mapping[str, str]

    @classmethod
    def here(cls, driver: str, progress_seconds: float) -> Owner:
        """Return this process."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(PRIVATE)}
        return cls(driver, liveness.process(), progress_seconds, own)


class WarmWorker(RemoteWorker):
    """A worker that one driver after another may adopt. Of these methods Ray calls one at a time."""

    def __init__(self, cpus: float, gpus: float, progress_seconds: float) -> None:
        super().__init__(cpus, gpus, progress_seconds)
        self._environment = dict(os.environ)
        self._owner: Owner | None = None
        self._retired = False

    def adopt(self, owner: Owner) -> Machine | None:
        """Become a driver's, and say what there is to train on; ``None`` if it is another's already, or has to go."""
        if self._owner is not None or self._retired:
            return None
        self._owner = owner
        os.environ.update(owner.environment)
        self.renew(owner.progress_seconds)
        threading.Thread(target=self._watch, args=(owner,), name="owner-watch", daemon=True).start()
        return self.warm()

    def owner(self) -> str:
        """Return whose it is: the Ray job of a driver; empty if it is nobody's."""
        return self._owner.driver if self._owner is not None else ""

    def release(self) -> bool:
        """Become nobody's. Returns whether it can be used again."""
        import psutil

        self._owner = None
        os.environ.clear()
        os.environ.update(self._environment)
        self._retired = psutil.Process().memory_info().rss > LARGEST
        return not self._retired

    def retire(self) -> bool:
        """Return whether it is nobody's; then nobody can adopt it any more."""
        self._retired = self._owner is None
        return self._retired

    def _watch(self, owner: Owner) -> None:
        while self._owner is owner:
            if not liveness.is_there(owner.process):
                # It may be in the middle of a pack, which nobody waits for.
                os._exit(1)
            time.sleep(WATCH_SECONDS)


def call(worker: Any, method: str, *arguments: Any) -> Any:
    """Return the reference of what a warm worker says, which it does while it trains, too."""
    return getattr(worker, method).options(concurrency_group="requests").remote(*arguments)


def names() -> dict[WarmName, str]:
    """Return the names of all warm workers of the cluster. Raises what Ray raises if its head does not answer."""
    import ray

    there = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if actor["namespace"] == NAMESPACE]
    return {parsed: name for name in there if (parsed := WarmName.parse(name)) is not None}


def found(allotment: Allotment, but: Iterable[Any] = ()) -> list[Any]:
    """Return the warm workers of this `build` that have what an ``allotment`` asks for, ``but`` some: perhaps others' by now."""
    import ray

    known = set(but)
    workers = []
    for parsed, name in names().items():
        if parsed.build == build() and parsed.allotment == allotment:
            with suppress(ValueError):  # it has ended just now
                workers.append(ray.get_actor(name, namespace=NAMESPACE))
    return [worker for worker in workers if worker not in known]


def claims(but: Iterable[Any]) -> Sequence[WorkerName]:
    """Return the warm workers that are drivers', as names of workers of those, ``but`` for some."""
    import ray

    known = set(but)
    asked: dict[Any, WarmName] = {}
    for parsed, name in names().items():
        with suppress(ValueError):
            worker = ray.get_actor(name, namespace=NAMESPACE)
            if worker not in known:
                asked[call(worker, "owner")] = parsed
    ready: list[Any] = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)[0] if asked else []
    found = []
    for reference in ready:
        with suppress(ray.exceptions.RayError):
            if driver := ray.get(reference):
                found.append(WorkerName(driver, asked[reference].allotment, asked[reference].number))
    return found


def released(worker: Any) -> bool:
    """Give a worker without work back. Returns whether it could be; else it is to be ended."""
    import ray

    try:
        return bool(ray.get(call(worker, "release"), timeout=ANSWER_SECONDS))
    except ray.exceptions.RayError:
        return False
