"""One writer a sweep: a thread beside the computation, because MLflow is the slowest part of a fast sweep."""

from __future__ import annotations

import getpass
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Self

from orchestrator.errors import TrackingUnavailable
from orchestrator.tracking import layout
from orchestrator.tracking.artifacts import put_files
from orchestrator.tracking.recorder import Recorder, recorder
from orchestrator.tracking.records import RunRecord, run_record
from orchestrator.tracking.store import Store, translated
from orchestrator.tracking.sweep import SweepInfo
from orchestrator.tracking.traces import encode_traces, encode_trials
from workloads.results import TrialResult

QUEUE_LIMIT = 1024
"""Trials that may wait to be written before `SweepWriter.add` makes the caller wait. An interrupted sweep still writes them."""


@dataclass(frozen=True)
class _Batch:
    pack: str
    results: tuple[TrialResult, ...]
    tags: Mapping[str, str]


class SweepWriter:
    """Writes a sweep while it runs. Used as a context manager: the parent run exists from entry on.

    An error of the store stops the writing; the next call of any method raises it as `TrackingUnavailable`. What was counted in
    ``done`` before that is durable.
    """

    def __init__(self, store: Store, sweep: SweepInfo, *, queue_limit: int = QUEUE_LIMIT) -> None:
        self._store = store
        self._sweep = sweep
        self._limit = queue_limit
        self._batches: deque[_Batch] = deque()
        self._changed = threading.Condition()
        self._queued = 0
        self._done = 0
        self._parts: Counter[str] = Counter()
        self._closing = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)

    def __enter__(self) -> Self:
        with translated(self._store.display):
            self._create_parent()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._closing:
            return
        if kind is None:
            self.close()
            return
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

    def add(self, pack: str, results: Sequence[TrialResult], tags: Mapping[str, str] | None = None) -> None:
        """Hand over trials of a pack that have ended; ``tags`` are put on their runs. Waits only while the queue is full."""
        if not results:
            return
        with self._changed:
            # A batch larger than the queue goes in once the queue is empty.
            self._changed.wait_for(lambda: self._error or not self._queued or self._queued + len(results) <= self._limit)
            self._raise()
            if self._closing:
                raise RuntimeError("the writer is closed")
            self._batches.append(_Batch(pack, tuple(results), dict(tags or {})))
            self._queued += len(results)
            self._changed.notify_all()

    def close(self, status: str = "FINISHED", counts: Mapping[str, int] | None = None, metrics: Mapping[str, float] | None = None) -> None:
        """Write what is queued, then ``counts`` and ``metrics`` as the parent's metrics, then end the parent with ``status``."""
        from mlflow.entities import Metric

        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._raise()
        now = _now()
        numbers = {**(counts or {}), **(metrics or {})}
        with translated(self._store.display):
            if numbers:
                self._store.client.log_batch(self._parent_id, [Metric(key, float(value), now, 0) for key, value in numbers.items()])
            self._store.client.set_terminated(self._parent_id, status, now)

    def _create_parent(self) -> None:
        sweep, store = self._sweep, self._store
        self._experiment_id = store.experiment(sweep.experiment)
        tags = {
            **sweep.tags,
            layout.KIND: layout.SWEEP,
            layout.SWEEP_ID: sweep.sweep_id,
            layout.TRIALS: str(len(sweep.trials)),
            layout.REUSED: str(sweep.reused),
            layout.RECORD: layout.record_tag(sweep.record),
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

    def _work(self) -> None:
        target: Recorder | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._batches or self._closing)
                if not self._batches:
                    return
                batch = self._batches.popleft()
            try:
                with translated(self._store.display):
                    target = target or recorder(self._store, self._experiment_id)
                    self._write(batch, target)
            except Exception as error:
                with self._changed:
                    self._error = error
                    self._batches.clear()
                    self._changed.notify_all()
                return

    def _write(self, batch: _Batch, target: Recorder) -> None:
        traced = [result for result in batch.results if len(result.trace.steps)]
        path = layout.trace_path(batch.pack, self._parts[batch.pack])
        if traced:
            # Before any of the runs: a run that is finished has its trace.
            put_files(self._parent_uri, {path: encode_traces(traced)}, self._store.uri)
            self._parts[batch.pack] += 1
        for start in range(0, len(batch.results), target.at_once):
            some = batch.results[start : start + target.at_once]
            target.write([self._record(result, batch, path) for result in some])
            with self._changed:
                self._done += len(some)
                self._queued -= len(some)
                self._changed.notify_all()

    def _record(self, result: TrialResult, batch: _Batch, path: str) -> RunRecord:
        tags = {**batch.tags, **self._shared_tags}
        if len(result.trace.steps):
            tags[layout.TRACE] = path
        return run_record(result, self._specs[result.trial_id], tags, self._sweep.history_points)

    @cached_property
    def _specs(self) -> dict[str, dict[str, object]]:
        return {trial.trial_id: trial.spec.flat() for trial in self._sweep.trials if trial.reused_run_id is None}

    @cached_property
    def _shared_tags(self) -> dict[str, str]:
        return {
            layout.PARENT: self._parent_id,
            layout.SWEEP_ID: self._sweep.sweep_id,
            layout.RECORD: layout.record_tag(self._sweep.record),
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
