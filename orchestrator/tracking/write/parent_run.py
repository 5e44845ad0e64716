"""The MLflow run of a sweep itself."""

from __future__ import annotations

import getpass
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.tracking import layout
from orchestrator.tracking.artifacts import put_files
from orchestrator.tracking.read.results import Source
from orchestrator.tracking.store import Store, translated
from orchestrator.tracking.write.delivery import remove_begun, take
from orchestrator.tracking.write.parent import SweepInfo
from orchestrator.tracking.write.traces import encode_trials

if TYPE_CHECKING:
    from mlflow.entities import Run

FILES_WAITS = (0.5, 2.0)
"""Seconds after which a sweep's files are tried again, so that a server's hiccup does not end it."""


class ParentRun:
    """The parent run of a sweep, begun now or taken up. Raises `orchestrator.errors.TrackingUnavailable`."""

    def __init__(self, store: Store, sweep: SweepInfo) -> None:
        self._store, self._sweep = store, sweep
        with translated(store.display):
            self._experiment_id = store.experiment(sweep.experiment)
            self.run: Run = self._create() if sweep.parent_run_id is None else self._take_up(sweep.parent_run_id)
        self.run_id: str = self.run.info.run_id
        self._marks: set[float] = set()
        self._telling, self._told, self._complete = threading.Lock(), "", False

    def _create(self) -> Run:
        sweep, store = self._sweep, self._store
        tags = {
            **sweep.tags,
            layout.KIND: layout.SWEEP,
            layout.SWEEP_ID: sweep.sweep_id,
            layout.TRIALS: str(len(sweep.trials)),
            layout.TRIALS_DIGEST: sweep.digest,
            layout.REUSED: str(sweep.reused),
            layout.RECORD: layout.recording_tag(sweep.record),
            layout.FORMAT: str(layout.WITH_RESULTS),
            layout.DETAIL: sweep.detail.runs,
            layout.ATTEMPT: str(sweep.attempt),
            layout.VERSION: layout.version(),
            layout.USER: _user(),
            layout.SOURCE_NAME: "orchestrate",
        }
        run = store.client.create_run(self._experiment_id, start_time=_now(), tags=tags, run_name=layout.sweep_name(sweep.sweep_id))
        try:
            self._put(run, self._files)
        except BaseException:
            # Without its files it is no sweep. Where even this cannot be done, whoever takes it up completes it.
            with suppress(Exception):
                store.client.delete_run(run.info.run_id)
            raise
        return run

    @property
    def _files(self) -> dict[str, bytes]:
        sweep = self._sweep
        return {
            layout.GRID_FILE: sweep.grid_text.encode(),
            layout.TRIALS_FILE: encode_trials(sweep.trials),
            **sweep.files,
        }

    def _put(self, run: Run, files: Mapping[str, bytes]) -> None:
        """Put files among the run's artifacts, which a store that answers the rest may refuse once or twice."""
        from mlflow.exceptions import MlflowException

        for wait in FILES_WAITS:
            with suppress(MlflowException, OSError):
                put_files(run.info.artifact_uri, files, self._store.uri)
                return
            time.sleep(wait)
        put_files(run.info.artifact_uri, files, self._store.uri)

    def _take_up(self, run_id: str) -> Run:
        """Go on with a sweep that did not come to its end. What its files say still holds; one that is missing is put there."""
        client, sweep = self._store.client, self._sweep
        run = client.update_run(run_id, status="RUNNING") or client.get_run(run_id)
        for key, value in {**sweep.tags, layout.REUSED: str(sweep.reused), layout.ATTEMPT: str(sweep.attempt)}.items():
            client.set_tag(run_id, key, value)
        for tag in (layout.CANCEL, layout.IMPORTING):
            if tag in run.data.tags:
                client.delete_tag(run_id, tag)
        there = {*self._store.artifacts(run).names("")} - {layout.TRIALS_FILE}
        self._put(run, {name: content for name, content in self._files.items() if name not in there})
        return run

    def take(self, taken: Mapping[str, Source | None]) -> None:
        """Say that some trials are other sweeps': where they are, by trial id; or, if ``None``, its own."""
        take(self._store, self.run, taken)

    def measure(self, numbers: Mapping[str, float]) -> None:
        """Log ``numbers`` as metrics of the sweep."""
        from mlflow.entities import Metric

        if numbers:
            now = _now()
            self._store.client.log_batch(self.run_id, [Metric(layout.COUNT + key, float(value), now, 0) for key, value in numbers.items()])

    def mark(self, written: int) -> None:
        """Log that so many trials have been written: a store that is put back to an earlier state will not know of it."""
        self._store.client.log_metric(self.run_id, layout.WRITTEN, written, step=self._sweep.attempt)
        self._marks.add(float(written))

    def was_put_back(self) -> bool:
        """Return whether the store has forgotten some of what was written."""
        history = self._store.client.get_metric_history(self.run_id, layout.WRITTEN) if self._marks else []
        return not self._marks <= {point.value for point in history if point.step == self._sweep.attempt}

    def show(self, progress: str, text: str) -> None:
        """Let others read how far the sweep is, and what it has said so far. From any thread; not once it has said all."""
        with self._telling:
            if self._complete:
                return
            self._store.client.set_tag(self.run_id, layout.PROGRESS, progress)
            if text != self._told:
                self._put_log(text)

    def log(self, text: str) -> None:
        """Keep what the sweep has said, which is all that it will."""
        with self._telling:
            self._complete = True
            if text:
                self._put_log(text)

    def _put_log(self, text: str) -> None:
        put_files(self.run.info.artifact_uri, {layout.log_path(self._sweep.attempt): text.encode()}, self._store.uri)
        self._told = text

    def end(self, status: str) -> None:
        """End the run, and delete trials' runs that were begun and never completed."""
        remove_begun(self._store, self._experiment_id, self.run_id)
        self._store.client.set_terminated(self.run_id, status, _now())

    @property
    def shared_tags(self) -> dict[str, str]:
        """What the sweep puts on every trial's run."""
        return {
            layout.PARENT: self.run_id,
            layout.SWEEP_ID: self._sweep.sweep_id,
            layout.RECORD: layout.recording_tag(self._sweep.record),
            layout.VERSION: layout.version(),
        }


def _now() -> int:
    return time.time_ns() // 1_000_000


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container may run as a number that has no name.
        return "unknown"
