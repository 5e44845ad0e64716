"""One writer a sweep: a thread beside the computation, because MLflow is the slowest part of a fast sweep.

What it is given is on disk before it is written, so that neither a store that is down nor the death of the process loses a trial.
"""

from __future__ import annotations

import getpass
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Self, TypeVar

from orchestrator.errors import StorageUnavailable, TrackingUnavailable
from orchestrator.options import PATIENCE
from orchestrator.storage.spool import Batch, Spool
from orchestrator.tracking import layout
from orchestrator.tracking.store import Store, translated
from orchestrator.tracking.write.artifacts import put_files
from orchestrator.tracking.write.delivery import Delivery, remove_begun
from orchestrator.tracking.write.parent import SweepInfo
from orchestrator.tracking.write.traces import encode_trials
from workloads.training.results import TrialResult

QUEUE_LIMIT = 1024
"""Trials that may wait in memory; more wait on disk or, where there is none, make the caller of `SweepWriter.add` wait."""
SPOOL_BYTES = 8 << 30
"""What may wait on disk before the computation waits."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 10.0

T = TypeVar("T")


@dataclass
class _Waiting:
    """A batch that waits: in memory, on disk under a name, or both."""

    count: int
    batch: Batch | None
    name: str | None
    done: int = 0


class SweepWriter:
    """Writes a sweep while it runs. Used as a context manager: the parent run exists from entry on.

    A store that fails is tried again and again, while what is added waits in the ``spool``. What was counted in ``done`` is durable in
    MLflow. Without a spool everything waits in memory.
    """

    def __init__(
        self,
        store: Store,
        sweep: SweepInfo,
        *,
        spool: Spool | None = None,
        queue_limit: int = QUEUE_LIMIT,
        spool_bytes: int = SPOOL_BYTES,
        patience: float = PATIENCE,
        tell: Callable[[str], None] = lambda _: None,
        log: Callable[[], str] = lambda: "",
    ) -> None:
        self._store, self._sweep, self._spool = store, sweep, spool
        self._limit, self._spool_bytes, self._patience, self._tell = queue_limit, spool_bytes, patience, tell
        self._log = log
        self._batches: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._in_memory = 0
        self._queued = 0
        self._done = 0
        self._closing = False
        self._hopeful_until = float("inf")
        self._error: Exception | None = None
        self._trouble: TrackingUnavailable | None = None
        self._spool_trouble = ""
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)

    def __enter__(self) -> Self:
        with translated(self._store.display):
            self._experiment_id = self._store.experiment(self._sweep.experiment)
            if self._sweep.parent_run_id is None:
                self._create_parent()
            else:
                self._take_up_parent(self._sweep.parent_run_id)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._closing:
            return
        if kind is None:
            self.close()
            return
        # What could not be delivered by now is in the spool.
        self._patience = min(self._patience, 5.0)
        try:
            self.close("FAILED" if issubclass(kind, Exception) else "KILLED")
        except TrackingUnavailable:
            # The exception under way says more than its consequence.
            return

    @property
    def sweep_id(self) -> str:
        """The id of the sweep."""
        return self._sweep.sweep_id

    @property
    def parent_run_id(self) -> str:
        """The MLflow run of the sweep itself."""
        return self._parent_id

    @property
    def done(self) -> int:
        """How many trials are durable in MLflow."""
        return self._done

    @property
    def queued(self) -> int:
        """How many trials wait to be written, the ones being written included."""
        return self._queued

    @property
    def trouble(self) -> str:
        """Why the store does not take anything now; empty if it does."""
        return str(self._trouble or "")

    def add(self, pack: str, results: Sequence[TrialResult], tags: Mapping[str, str] | None = None) -> None:
        """Hand over trials of a pack that have ended; ``tags`` are put on their runs. They are durable when this returns.

        Waits while there is no room left for what the store does not take. Raises what made the writing stop.
        """
        if not results:
            return
        specs = {result.trial_id: self._specs[result.trial_id] for result in results}
        own = {**(tags or {}), **self._shared_tags}
        batch = Batch(pack, tuple(results), specs, own, self._sweep.history_points, self._sweep.attempts)
        name = self._keep(batch)
        with self._changed:
            # A batch larger than the queue goes in once the queue is empty. In short waits, so that Python hears signals.
            while not self._changed.wait_for(lambda: self._has_room(name, len(results)), timeout=0.2):
                pass
            self._raise()
            if self._closing:
                raise RuntimeError("the writer is closed")
            held = name is None or self._in_memory + len(results) <= self._limit
            self._batches.append(_Waiting(len(results), batch if held else None, name))
            self._in_memory += len(results) if held else 0
            self._queued += len(results)
            self._changed.notify_all()

    def close(self, status: str = "FINISHED", counts: Mapping[str, int] | None = None, metrics: Mapping[str, float] | None = None) -> None:
        """Write what is queued, then ``counts`` and ``metrics`` as the parent's metrics, then end the parent with ``status``.

        Raises `TrackingUnavailable` once the store has taken nothing for as long as the writer's patience.
        """
        from mlflow.entities import Metric

        with self._changed:
            self._closing = True
            self._hopeful_until = time.monotonic() + self._patience
            self._changed.notify_all()
        while self._thread.is_alive():
            self._thread.join(0.2)
        self._raise()
        now = _now()
        numbers = [Metric(key, float(value), now, 0) for key, value in {**(counts or {}), **(metrics or {})}.items()]
        if numbers:
            self._insist(lambda: self._store.client.log_batch(self._parent_id, numbers))
        log = self._log()
        if log:
            self._insist(lambda: put_files(self._parent_uri, {layout.log_path(self._sweep.attempt): log.encode()}, self._store.uri))
        self._insist(lambda: remove_begun(self._store, self._experiment_id, self._parent_id))
        self._insist(lambda: self._store.client.set_terminated(self._parent_id, status, now))

    def _has_room(self, name: str | None, count: int) -> bool:
        if self._error or self._closing or not self._queued:
            return True
        if name is not None and self._spool is not None:
            return self._spool.bytes <= self._spool_bytes
        return self._in_memory + count <= self._limit

    def _keep(self, batch: Batch) -> str | None:
        """Put a batch on disk; where that fails it waits in memory alone."""
        if self._spool is None:
            return None
        try:
            return self._spool.add(batch)
        except StorageUnavailable as error:
            if self._trouble is not None:
                # Neither here nor there: what is computed from now on would be lost.
                raise
            if str(error) != self._spool_trouble:
                self._spool_trouble = str(error)
                self._tell(f"{error}: what has ended is kept in memory until MLflow has it")
            return None

    def _create_parent(self) -> None:
        sweep, store = self._sweep, self._store
        tags = {
            **sweep.tags,
            layout.KIND: layout.SWEEP,
            layout.SWEEP_ID: sweep.sweep_id,
            layout.TRIALS: str(len(sweep.trials)),
            layout.TRIALS_DIGEST: sweep.digest,
            layout.REUSED: str(sweep.reused),
            layout.RECORD: layout.recording_tag(sweep.record),
            layout.ATTEMPT: str(sweep.attempt),
            layout.VERSION: layout.version(),
            layout.USER: _user(),
            layout.SOURCE_NAME: "orchestrate",
        }
        run = store.client.create_run(self._experiment_id, start_time=_now(), tags=tags, run_name=f"sweep-{sweep.sweep_id}")
        self._parent_id: str = run.info.run_id
        self._parent_uri: str = run.info.artifact_uri
        files = {
            layout.GRID_FILE: sweep.grid_text.encode(),
            layout.PLAN_FILE: json.dumps(sweep.plan, indent=2).encode(),
            layout.TRIALS_FILE: encode_trials(sweep.trials),
        }
        put_files(self._parent_uri, files, store.uri)

    def _take_up_parent(self, run_id: str) -> None:
        """Go on with a sweep that did not come to its end. What its files say still holds."""
        client, sweep = self._store.client, self._sweep
        run = client.update_run(run_id, status="RUNNING") or client.get_run(run_id)
        self._parent_id, self._parent_uri = run_id, run.info.artifact_uri
        for key, value in {**sweep.tags, layout.REUSED: str(sweep.reused), layout.ATTEMPT: str(sweep.attempt)}.items():
            client.set_tag(run_id, key, value)
        if layout.CANCEL in run.data.tags:
            client.delete_tag(run_id, layout.CANCEL)
        put_files(self._parent_uri, {layout.TRIALS_FILE: encode_trials(sweep.trials)}, self._store.uri)

    def _work(self) -> None:
        again = self._sweep.parent_run_id is not None
        delivery = Delivery(self._store, self._experiment_id, self._parent_id, self._parent_uri, again=again)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._batches or self._closing)
                if not self._batches:
                    return
                waiting = self._batches[0]
            try:
                self._insist(lambda: self._write(waiting, delivery))  # noqa: B023
            except Exception as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._batches.popleft()
                self._in_memory -= waiting.count if waiting.batch is not None else 0
                self._changed.notify_all()

    def _write(self, waiting: _Waiting, delivery: Delivery) -> None:
        def written(count: int) -> None:
            with self._changed:
                fresh = max(0, count - waiting.done)
                waiting.done += fresh
                self._done += fresh
                self._queued -= fresh
                self._changed.notify_all()

        batch = waiting.batch
        if batch is None:
            assert self._spool is not None
            assert waiting.name is not None
            batch = self._spool.read(waiting.name)
        delivery.write(batch, written)
        if waiting.name is not None and self._spool is not None:
            # One that stays is delivered again some day, which changes nothing.
            with suppress(StorageUnavailable):
                self._spool.remove(waiting.name)

    def _insist(self, action: Callable[[], T]) -> T:
        """Do what the store may refuse for a while, until there is no hope left. Raises `TrackingUnavailable` then."""
        wait = _FIRST_WAIT
        while True:
            try:
                with translated(self._store.display):
                    done = action()
            except TrackingUnavailable as error:
                if self._trouble is None:
                    kept = "what has ended is kept on disk until it does again" if self._spool is not None else "waiting for it"
                    self._tell(f"{error}; {kept}")
                self._trouble = error
                if time.monotonic() + wait > self._hopeful_until:
                    raise
                with self._changed:
                    closing = self._closing
                    # Closing cuts the wait short: from then on time is limited.
                    self._changed.wait_for(lambda: self._closing != closing, timeout=wait)  # noqa: B023
                wait = min(_LONGEST_WAIT, 2 * wait)
            else:
                if self._trouble is not None:
                    self._trouble = None
                    self._tell(f"the MLflow store {self._store.display} takes runs again")
                if self._closing:
                    self._hopeful_until = time.monotonic() + self._patience
                return done

    @cached_property
    def _specs(self) -> dict[str, dict[str, object]]:
        return {trial.trial_id: trial.spec.flat() for trial in self._sweep.trials if trial.reused_run_id is None}

    @cached_property
    def _shared_tags(self) -> dict[str, str]:
        return {
            layout.PARENT: self._parent_id,
            layout.SWEEP_ID: self._sweep.sweep_id,
            layout.RECORD: layout.recording_tag(self._sweep.record),
            layout.VERSION: layout.version(),
        }

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


def _now() -> int:
    return time.time_ns() // 1_000_000


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container may run as a number that has no name.
        return "unknown"
