"""Worker processes on a cluster, and the packs that they train."""

from __future__ import annotations

import gc
import itertools
import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from orchestrator.cluster.scratch import scratch_folder
from orchestrator.cluster.sharing import NAMESPACE, Change, Staff, WorkerName, changes
from orchestrator.cluster.sizing import Allotment
from orchestrator.errors import RayUnavailable
from orchestrator.execution.events import Broken, Cause, Ended, Lost, PackEvent, WorkerEvent
from orchestrator.execution.scheduler import Board
from orchestrator.planning.pack import Pack
from orchestrator.storage.checkpoints import Checkpointing
from workloads.engines.calibration import Machine
from workloads.training.recording import Recording
from workloads.training.results import Notice

MISSES = 6
"""Workers in a row that may fail to come up before no more are tried."""
SHARE_SECONDS = 2.0
"""How often workers are held to their share of a cluster."""
IDLE_SECONDS = 10.0
"""How long a worker without work is kept that another sweep waits for."""
WAITING_NOTICE = 15.0
"""Seconds without a worker after which a person is told what the sweep waits for."""


class Workers:
    """Worker processes on a cluster. Use as a context manager: leaving it ends them.

    Where other sweeps want workers, too, there are as many as are a fair share, unless ``share`` is false. ``worker`` is their class.
    """

    def __init__(self, crews: Sequence[tuple[Allotment, int]], share: bool = True, worker: type[RemoteWorker] | None = None) -> None:
        import ray

        # Two groups: a worker must hear a request while it trains.
        self._class = ray.remote(concurrency_groups={"requests": 1})(worker or RemoteWorker)
        self._coming: dict[Any, Any] = {}
        self._machines: dict[Any, Machine] = {}
        self._allotments: dict[Any, Allotment] = {}
        self._streams: dict[Any, _Stream] = {}
        self._idle: dict[Any, float] = {}
        """Workers without a pack, and since when."""
        self._missing: list[tuple[float, Allotment]] = []
        self._misses = 0
        self._failure = ""
        self._stopping = False
        self._retiring: set[Any] = set()
        """Workers that come to their end as soon as they have saved what they have."""
        self._wanted = dict(crews)
        self._worked = 0.0
        self._serial = itertools.count()
        self._driver = ray.get_runtime_context().get_job_id()
        self._next_share = time.monotonic() if share else math.inf
        for allotment, count in crews:
            for _ in range(count):
                self._start(allotment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._dismiss_all()

    def _dismiss_all(self) -> None:
        for worker in list(self._allotments):
            self._dismiss(worker)

    def _start(self, allotment: Allotment) -> None:
        worker = self._class.options(
            num_cpus=allotment.cpus,
            num_gpus=allotment.gpus,
            max_restarts=0,
            name=WorkerName(self._driver, allotment, next(self._serial)).name,
            namespace=NAMESPACE,
        ).remote(allotment.cpus, allotment.gpus)
        self._allotments[worker] = allotment
        self._coming[worker.warm.remote()] = worker

    def machines(self, seconds: float) -> list[tuple[Machine, Allotment]]:
        """What workers compute on: the first to answer of each allotment, waiting ``seconds`` at most for one of them."""
        import ray

        until = time.monotonic() + seconds
        while self._coming:
            wanted = set(self._allotments.values()) - {self._allotments[w] for w in self._machines}
            left = until - time.monotonic()
            if not wanted or left <= 0:
                break
            ready, _ = ray.wait(list(self._coming), num_returns=1, timeout=left)
            for reference in ready:
                self._arrive(reference)
        seen = {self._allotments[worker]: machine for worker, machine in self._machines.items()}
        return [(machine, allotment) for allotment, machine in seen.items()]

    def _arrive(self, reference: Any) -> Any:
        """A worker is up: it can be given packs. ``None`` where it did not come up; then another one will be tried, a few times."""
        import ray

        worker = self._coming.pop(reference)
        try:
            self._machines[worker] = ray.get(reference)
        except ray.exceptions.RayError as error:
            self._failure = f"{type(error).__name__}: {error}"
            self._misses += 1
            if self._misses <= MISSES:
                self._missing.append((time.monotonic() + min(30.0, 2.0 ** (self._misses - 1)), self._allotments[worker]))
            self._dismiss(worker)
            return None
        self._misses = 0
        return worker

    def _dismiss(self, worker: Any) -> None:
        """Have nothing more to do with a worker: it may be unreachable and still compute."""
        import ray

        del self._allotments[worker]
        self._machines.pop(worker, None)
        self._idle.pop(worker, None)
        self._retiring.discard(worker)
        ray.kill(worker)

    def stop(self) -> None:
        """Let all workers end with a last checkpoint; `run` comes to its end with the last of them. May be called from another thread."""
        self._stopping = True
        for worker in list(self._machines):
            worker.stop.options(concurrency_group="requests").remote()

    def run(
        self,
        board: Board[Any],
        recording: Recording,
        files: Mapping[str, bytes],
        checkpointing: Checkpointing | None = None,
        poll: float = 0.2,
    ) -> Iterator[tuple[Pack | None, PackEvent | None]]:
        """Run the packs of ``board`` and yield events as they come, each with its pack; ``(None, None)`` if none came for ``poll`` seconds.

        With `HandedOver` comes the new pack that was made of it, and with every pack's end `Ended` or, if a worker died or training
        failed, `Lost`; whoever reads that may put packs back on the board. A worker that dies is replaced. Raises `RayUnavailable`
        if no worker comes up at all. At its end, all workers are gone.
        """
        import ray

        shared = ray.put(dict(files))
        self._idle = dict.fromkeys(self._machines, time.monotonic())
        for worker in self._idle:
            board.joined(worker)
        self._worked = time.monotonic()
        while self._streams or not (board.done or self._stopping):
            self._replace_missing()
            notices = [self._standstill()]
            if not self._stopping:
                notices.append(self._share(board))
                self._assign(board, recording, shared, checkpointing)
            yield from ((None, notice) for notice in notices if notice)
            waited_for = [*self._streams, *self._coming]
            if waited_for:
                ready, _ = ray.wait(waited_for, num_returns=1, timeout=poll, fetch_local=False)
            else:
                ready = []
                time.sleep(poll)
            if not ready:
                yield None, None
            for reference in ready:
                if reference in self._coming:
                    worker = self._arrive(reference)
                    if worker is not None:
                        board.joined(worker)
                        self._idle[worker] = time.monotonic()
                    continue
                pack = self._streams[reference].pack
                event, given = self._receive(reference, board)
                yield given or pack, event
        self._dismiss_all()

    def _standstill(self) -> Notice | None:
        """A word on why nobody has worked for a while. Raises `RayUnavailable` if nobody will."""
        if self._streams or self._idle:
            self._worked = time.monotonic()
        elif not self._coming and not self._missing:
            raise RayUnavailable(f"no worker comes up on the cluster: {self._failure}")
        elif time.monotonic() - self._worked > WAITING_NOTICE:
            self._worked = math.inf
            asked = " or ".join(f"{kind.cpus:g} cores" + (f" and {kind.gpus:g} GPUs" if kind.gpus else "") for kind in self._wanted)
            return Notice(f"all of the cluster is taken, or not up yet: waiting for {asked}; `ray status` on its head says what there is")
        return None

    def _replace_missing(self) -> None:
        """Start workers anew that did not come up, when it is time to."""
        now = time.monotonic()
        due, self._missing = [m for m in self._missing if m[0] <= now], [m for m in self._missing if m[0] > now]
        for _, allotment in due:
            self._start(allotment)

    def _share(self, board: Board[Any]) -> Notice | None:
        """Let go of workers that are more than our share of the cluster, or start some where there is room again."""
        import ray

        if time.monotonic() < self._next_share:
            return None
        self._next_share = time.monotonic() + SHARE_SECONDS
        try:
            actors = ray.util.list_named_actors(all_namespaces=True)
            there = ray.cluster_resources()
        except (ray.exceptions.RayError, RuntimeError):
            # A head that does not answer now will, or the workers' streams will tell.
            return None
        names = [actor["name"] for actor in actors if actor["namespace"] == NAMESPACE]
        others = [claim for claim in map(WorkerName.parse, names) if claim is not None and claim.driver != self._driver]
        now = time.monotonic()
        up = Counter(self._allotments[worker] for worker in self._machines if worker not in self._retiring)
        coming = Counter(self._allotments[worker] for worker in self._coming.values())
        coming += Counter(allotment for _, allotment in self._missing)
        idle = Counter(self._allotments[worker] for worker, since in self._idle.items() if now - since > IDLE_SECONDS)
        if others:
            staff = {kind: Staff(wanted, up[kind], coming[kind], idle[kind]) for kind, wanted in self._wanted.items()}
            due = changes(self._driver, staff, others, there.get("CPU", 0.0), there.get("GPU", 0.0), board.waiting)
        else:
            useful = board.work > up.total() + coming.total()
            due = {kind: Change(max(0, wanted - up[kind] - coming[kind])) for kind, wanted in self._wanted.items() if useful}
        before = up.total()
        for kind, change in due.items():
            for _ in range(change.start):
                self._start(kind)
            for reference in [ref for ref, worker in self._coming.items() if self._allotments[worker] == kind][: change.drop_coming]:
                self._dismiss(self._coming.pop(reference))
            for worker in self._dispensable(kind)[: change.drop_up]:
                self._retire(worker, board)
        after = sum(worker not in self._retiring for worker in self._machines)
        if after < before:
            return Notice(f"another sweep shares the cluster: going on with {after} of {sum(self._wanted.values())} workers")
        return None

    def _dispensable(self, kind: Allotment) -> list[Any]:
        """Workers that are up, in the order in which to let go of them: those without work first, then those that have begun last."""
        busy = [stream.worker for stream in self._streams.values()]
        return [w for w in (*self._idle, *reversed(busy)) if self._allotments[w] == kind and w not in self._retiring]

    def _retire(self, worker: Any, board: Board[Any]) -> None:
        """Let a worker end, once it has saved what it has."""
        if worker in self._idle:
            board.left(worker)
            self._dismiss(worker)
        else:
            self._retiring.add(worker)
            worker.stop.options(concurrency_group="requests").remote()

    def _assign(self, board: Board[Any], recording: Recording, files: Any, checkpointing: Checkpointing | None) -> None:
        """Give packs to idle workers; where none waits, ask busy workers for half of theirs."""
        for worker in list(self._idle):
            pack = board.take(worker, self._machines[worker].device)
            if pack is not None:
                del self._idle[worker]
                # Not retried by Ray, which would replay the stream from its first event.
                stream = worker.run.options(num_returns="streaming", max_task_retries=0).remote(pack, recording, files, checkpointing)
                self._streams[stream] = _Stream(worker, pack)
        for worker in board.donors([self._machines[worker].device for worker in self._idle]):
            worker.ask.options(concurrency_group="requests").remote()

    def _receive(self, reference: Any, board: Board[Any]) -> tuple[PackEvent, Pack | None]:
        """The next event of a stream, and the pack that was made of what it gives up."""
        import ray

        stream = self._streams[reference]
        try:
            event: WorkerEvent = ray.get(next(reference))
        except StopIteration:
            del self._streams[reference]
            left = board.ended(stream.worker)
            retired = stream.worker in self._retiring
            if retired:
                board.left(stream.worker)
                self._dismiss(stream.worker)
            else:
                self._idle[stream.worker] = time.monotonic()
            if stream.error:
                return Lost(left, Cause.EXCEPTION, stream.error), None
            if retired and left and not self._stopping:
                return Lost(left, Cause.SHARED, ""), None
            return Ended(stopped=bool(left)), None
        except ray.exceptions.RayError as error:
            del self._streams[reference]
            left = board.ended(stream.worker)
            board.left(stream.worker)
            allotment, replaced = self._allotments[stream.worker], stream.worker not in self._retiring
            self._dismiss(stream.worker)
            if replaced and not self._stopping:
                self._start(allotment)
            return Lost(left, _cause(error), f"{type(error).__name__}: {error}"), None
        if isinstance(event, Broken):
            stream.error = event.error
            return Notice(f"training failed: {event.error.strip().splitlines()[-1]}"), None
        return event, board.see(stream.worker, event)


@dataclass
class _Stream:
    """A pack on a worker, and the traceback of the exception that ended its training."""

    worker: Any
    pack: Pack
    error: str = ""


def _cause(error: Exception) -> Cause:
    """Why a worker died, as far as Ray says."""
    import ray

    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return Cause.MEMORY
    # A node that has just died is unavailable before Ray gives it up; one that is drained says so in an attribute alone.
    if isinstance(error, ray.exceptions.ActorUnavailableError) or getattr(error, "preempted", False) or "node has died" in str(error):
        return Cause.NODE
    return Cause.CRASH


class RemoteWorker:
    """`orchestrator.execution.worker.Worker` in a process of Ray's. Imported there and not above: the driver does without torch."""

    def __init__(self, cpus: float, gpus: float) -> None:
        # Compilers leave files behind, and this process is killed in the end. Where no folder can be made, nothing says that they need one.
        self._scratch = scratch_folder()
        with suppress(OSError):
            tempfile.tempdir = str(self._scratch.__enter__())
        # Looking for garbage takes a fifth of the time of these imports and finds none.
        gc.disable()
        from orchestrator.execution.worker import Worker

        gc.freeze()
        gc.enable()
        self._worker = Worker(max(1, int(cpus)), gpus)

    def warm(self) -> Machine:
        return self._worker.warm()

    def ask(self) -> None:
        self._worker.ask()

    def stop(self) -> None:
        self._worker.stop()

    def run(
        self, pack: Pack, recording: Recording, files: Mapping[str, bytes], checkpointing: Checkpointing | None
    ) -> Iterator[WorkerEvent]:
        yield from self._worker.run(pack, recording, files, checkpointing)
