"""Packs on a cluster: which worker gets which, what they say of them, and how many workers there are beside other sweeps."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from orchestrator.cluster.actors import PROGRESS_SECONDS, Actors, cause_of, words_of
from orchestrator.cluster.lifelines import Lifeline, lifelines
from orchestrator.cluster.remote_worker import RemoteWorker
from orchestrator.cluster.sharing import Change, Staff, changes
from orchestrator.cluster.sizing import Allotment
from orchestrator.deadline import within
from orchestrator.errors import CodeError, RayUnavailable, one_line
from orchestrator.execution.events import Broken, Cause, Ended, Lost, PackEvent, WorkerEvent
from orchestrator.execution.scheduler import Board
from orchestrator.extensions import carried
from orchestrator.planning.pack import Pack
from orchestrator.storage.checkpoints import Checkpointing
from workloads.amounts import amount
from workloads.engines.calibration import Machine
from workloads.extensions import Extension
from workloads.training.recording import Recording
from workloads.training.results import Notice

SHARE_SECONDS = 2.0
"""How often workers are held to their share of a cluster."""
ANSWER_SECONDS = 5.0
"""How long a head is waited for that is asked who shares the cluster: it is asked again."""
IDLE_SECONDS = 10.0
"""How long a worker without work is kept that another sweep waits for."""
PROGRESS_EVENTS = 100
"""How often all workers together tell how far they are, in events a second: a driver takes about a thousand of all kinds."""
WAITING_NOTICE = 15.0
"""Seconds without a worker after which a person is told what the sweep waits for."""


@dataclass
class _Stream:
    """A pack on a worker, and the traceback of the exception that ended its training."""

    worker: Any
    pack: Pack
    error: str = ""


class Workers:
    """Worker processes on a cluster. Use as a context manager: leaving it ends them.

    Where other sweeps want workers, too, there are as many as are a fair share, unless ``share`` is false. ``worker`` is their class, and
    ``lines`` what they hang on, unless it is what this process does.
    """

    def __init__(
        self,
        crews: Sequence[tuple[Allotment, int]],
        share: bool = True,
        worker: type[RemoteWorker] | None = None,
        lines: Sequence[Lifeline] | None = None,
    ) -> None:
        self._lines = lifelines() if lines is None else lines
        self._actors = Actors(worker, max(PROGRESS_SECONDS, sum(count for _, count in crews) / PROGRESS_EVENTS))
        self._streams: dict[Any, _Stream] = {}
        self._idle: dict[Any, float] = {}
        """Workers without a pack, and since when."""
        self._stopping = False
        self._retiring: set[Any] = set()
        """Workers that come to their end as soon as they have saved what they have."""
        self._extensions: tuple[Extension, ...] = ()
        self._wanted = dict(crews)
        self._worked = 0.0
        self._next_share = time.monotonic() if share else math.inf
        for allotment, count in crews:
            self._actors.hire(allotment, count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._dismiss_all()

    def _dismiss_all(self) -> None:
        for worker in list(self._actors.allotments):
            self._dismiss(worker)

    def _dismiss(self, worker: Any) -> None:
        self._idle.pop(worker, None)
        self._retiring.discard(worker)
        self._actors.dismiss(worker, busy=any(stream.worker is worker for stream in self._streams.values()))

    @property
    def up(self) -> int:
        """How many workers can be given packs, or have one."""
        return len(self._actors.machines)

    def machines(self, seconds: float) -> list[tuple[Machine, Allotment]]:
        """Return what workers compute on: the first to answer of each allotment, waiting ``seconds`` at most for one of them."""
        return self._actors.first_of_each(seconds)

    def stop(self) -> None:
        """Let all workers end with a last checkpoint; `run` comes to its end with the last of them. May be called from another thread."""
        self._stopping = True
        for worker in list(self._actors.machines):
            self._actors.stop(worker)

    def run(
        self,
        board: Board[Any],
        recording: Recording,
        files: Mapping[str, bytes],
        checkpointing: Checkpointing | None = None,
        poll: float = 0.2,
        extensions: tuple[Extension, ...] = (),
    ) -> Iterator[tuple[Pack | None, PackEvent | None]]:
        """Run the packs of ``board`` and yield events as they come, each with its pack; ``(None, None)`` if none came for ``poll`` seconds.

        With `HandedOver` comes the new pack that was made of it, and with every pack's end `Ended` or, if a worker died or training
        failed, `Lost`; whoever reads that may put packs back on the board. A worker that dies is replaced. Trials of users' own kinds go
        with the ``extensions`` that these are from. Raises `RayUnavailable` if no worker comes up at all, or if the cluster's head or our
        own raylet is gone, and `CodeError` if a worker cannot load users' code. At its end, all workers are gone.
        """
        import ray

        self._extensions = extensions
        shared = ray.put(dict(files))
        self._idle = dict.fromkeys(self._actors.machines, time.monotonic())
        for worker in self._idle:
            board.joined(worker)
        self._worked = time.monotonic()
        while self._streams or not (board.done or self._stopping):
            if not self._vital():
                time.sleep(poll)
                yield None, None
                continue
            there = all(line.holds() for line in self._lines)
            if there:
                self._actors.start_missing()
            notices = [self._standstill()]
            if not self._stopping:
                notices.append(self._share(board) if there else None)
                self._assign(board, recording, shared, checkpointing)
            yield from ((None, notice) for notice in notices if notice)
            ready = self._ready(poll)
            if not ready:
                yield None, None
            for reference in ready:
                if not self._vital():
                    break
                if reference in self._actors.coming:
                    self._arrive(reference, board)
                    continue
                pack = self._streams[reference].pack
                event, given = self._receive(reference, board)
                yield given or pack, event
        self._dismiss_all()

    def _ready(self, poll: float) -> Sequence[Any]:
        """Return which streams have something to say and which workers have come up, waiting ``poll`` seconds at most for one."""
        import ray

        waited_for = [*self._streams, *self._actors.coming]
        if not waited_for:
            time.sleep(poll)
            return []
        ready: list[Any] = ray.wait(waited_for, num_returns=1, timeout=poll, fetch_local=False)[0]
        if ready and len(waited_for) > 1:
            # All that have something to say at once, where there are many: a round looks at every worker.
            ready = ray.wait(waited_for, num_returns=len(waited_for), timeout=0, fetch_local=False)[0]
        return ready

    def _vital(self) -> bool:
        """Return whether there is all without which Ray ends this process at the next question. Raises `RayUnavailable` if given up."""
        return all(line.holds() for line in self._lines if line.vital)

    def _arrive(self, reference: Any, board: Board[Any]) -> None:
        worker = self._actors.arrive(reference)
        if worker is not None:
            board.joined(worker)
            self._idle[worker] = time.monotonic()

    def _standstill(self) -> Notice | None:
        """Return a word on why nobody has worked for a while. Raises `RayUnavailable` if nobody will."""
        if self._streams or self._idle:
            self._worked = time.monotonic()
        elif not self._actors.expected:
            raise RayUnavailable(f"no worker comes up on the cluster: {one_line(' '.join(self._actors.failure.split()))}")
        elif time.monotonic() - self._worked > WAITING_NOTICE:
            self._worked = math.inf
            asked = " or ".join(
                amount(kind.cpus, "core") + (f" and {amount(kind.gpus, 'GPU')}" if kind.gpus else "") for kind in self._wanted
            )
            return Notice(f"all of the cluster is taken, or not up yet: waiting for {asked}; `ray status` on its head says what there is")
        return None

    def _share(self, board: Board[Any]) -> Notice | None:
        """Let go of workers that are more than our share of the cluster, or start some where there is room again."""
        if time.monotonic() < self._next_share:
            return None
        self._next_share = time.monotonic() + SHARE_SECONDS
        due = self._changes(board)
        before = sum(worker not in self._retiring for worker in self._actors.machines)
        for kind, change in due.items():
            for _ in range(change.start):
                self._actors.start(kind)
            self._actors.dismiss_coming(kind, change.drop_coming)
            for worker in self._dispensable(kind)[: change.drop_up]:
                self._retire(worker, board)
        after = sum(worker not in self._retiring for worker in self._actors.machines)
        if after < before:
            return Notice(f"another sweep shares the cluster: going on with {after} of {amount(sum(self._wanted.values()), 'worker')}")
        return None

    def _changes(self, board: Board[Any]) -> Mapping[Allotment, Change]:
        """Return what is to be done about the workers of each kind."""
        import ray

        actors = self._actors
        try:
            names, there = within(ANSWER_SECONDS, lambda: (actors.names(), ray.cluster_resources()))
        except (ray.exceptions.RayError, RuntimeError, TimeoutError):
            # A head that does not answer now will, or its lifeline and the workers' streams will tell. Ray itself would wait for it for a
            # minute and then end this process.
            return {}
        others = [name for name in names if name.driver != actors.driver]
        now = time.monotonic()
        up = Counter(actors.allotments[worker] for worker in actors.machines if worker not in self._retiring)
        coming = Counter(actors.awaited)
        idle = Counter(actors.allotments[worker] for worker, since in self._idle.items() if now - since > IDLE_SECONDS)
        if others:
            staff = {kind: Staff(wanted, up[kind], coming[kind], idle[kind]) for kind, wanted in self._wanted.items()}
            return changes(actors.driver, staff, others, there.get("CPU", 0.0), there.get("GPU", 0.0), board.waiting)
        useful = board.work > up.total() + coming.total()
        return {kind: Change(max(0, wanted - up[kind] - coming[kind])) for kind, wanted in self._wanted.items() if useful}

    def _dispensable(self, kind: Allotment) -> list[Any]:
        """Return workers that are up, in the order in which to let go of them: those without work, then those that have begun last."""
        busy = [stream.worker for stream in self._streams.values()]
        return [w for w in (*self._idle, *reversed(busy)) if self._actors.allotments[w] == kind and w not in self._retiring]

    def _retire(self, worker: Any, board: Board[Any]) -> None:
        """Let a worker end, once it has saved what it has."""
        if worker in self._idle:
            board.left(worker)
            self._dismiss(worker)
        else:
            self._retiring.add(worker)
            self._actors.stop(worker)

    def _assign(self, board: Board[Any], recording: Recording, files: Any, checkpointing: Checkpointing | None) -> None:
        """Give packs to idle workers; where none waits, ask busy workers for half of theirs."""
        machines = self._actors.machines
        for worker in list(self._idle):
            pack = board.take(worker, machines[worker].device)
            if pack is not None:
                del self._idle[worker]
                stream = self._actors.train(worker, carried(pack, self._extensions), recording, files, checkpointing)
                self._streams[stream] = _Stream(worker, pack)
        for worker in board.donors([machines[worker].device for worker in self._idle]):
            self._actors.ask(worker)

    def _receive(self, reference: Any, board: Board[Any]) -> tuple[PackEvent, Pack | None]:
        """Return the next event of a stream, and the pack that was made of what it gives up."""
        import ray

        stream = self._streams[reference]
        try:
            event: WorkerEvent = ray.get(next(reference))
        except StopIteration:
            del self._streams[reference]
            return self._ended(stream, board), None
        except ray.exceptions.RayError as error:
            del self._streams[reference]
            return self._died(stream, board, error), None
        if isinstance(event, Broken):
            if event.code:
                raise CodeError(event.error)
            stream.error = event.error
            return Notice(f"training failed: {event.error.strip().splitlines()[-1]}"), None
        return event, board.see(stream.worker, event)

    def _ended(self, stream: _Stream, board: Board[Any]) -> Ended | Lost:
        """Take note that a worker is through with its pack."""
        left = board.ended(stream.worker)
        retired = stream.worker in self._retiring
        if retired:
            board.left(stream.worker)
            self._dismiss(stream.worker)
        else:
            self._idle[stream.worker] = time.monotonic()
        if stream.error:
            return Lost(left, Cause.EXCEPTION, stream.error)
        if retired and left and not self._stopping:
            return Lost(left, Cause.SHARED, "")
        return Ended(stopped=bool(left))

    def _died(self, stream: _Stream, board: Board[Any], error: Exception) -> Lost:
        """Take note that a worker has died, and start another one."""
        left = board.ended(stream.worker)
        board.left(stream.worker)
        allotment, replaced = self._actors.allotments[stream.worker], stream.worker not in self._retiring
        self._dismiss(stream.worker)
        if replaced and not self._stopping:
            self._actors.start_soon(allotment)
        return Lost(left, cause_of(error), words_of(error))
