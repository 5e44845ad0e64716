"""The MLflow run of a sweep itself."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Mapping
from typing import Any

from orchestrator.tracking import layout
from orchestrator.tracking.store import Store, translated
from orchestrator.tracking.write.artifacts import put_files
from orchestrator.tracking.write.delivery import remove_begun
from orchestrator.tracking.write.parent import SweepInfo
from orchestrator.tracking.write.traces import encode_trials


class ParentRun:
    """The parent run of a sweep, begun now or taken up. Raises `orchestrator.errors.TrackingUnavailable`."""

    def __init__(self, store: Store, sweep: SweepInfo) -> None:
        self._store, self._sweep = store, sweep
        with translated(store.display):
            self.experiment_id = store.experiment(sweep.experiment)
            run = self._create() if sweep.parent_run_id is None else self._take_up(sweep.parent_run_id)
        self.run_id: str = run.info.run_id
        self.uri: str = run.info.artifact_uri

    def _create(self) -> Any:
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
        run = store.client.create_run(self.experiment_id, start_time=_now(), tags=tags, run_name=f"sweep-{sweep.sweep_id}")
        files = {
            layout.GRID_FILE: sweep.grid_text.encode(),
            layout.PLAN_FILE: json.dumps(sweep.plan, indent=2).encode(),
            layout.TRIALS_FILE: encode_trials(sweep.trials),
        }
        put_files(run.info.artifact_uri, files, store.uri)
        return run

    def _take_up(self, run_id: str) -> Any:
        """Go on with a sweep that did not come to its end. What its files say still holds."""
        client, sweep = self._store.client, self._sweep
        run = client.update_run(run_id, status="RUNNING") or client.get_run(run_id)
        for key, value in {**sweep.tags, layout.REUSED: str(sweep.reused), layout.ATTEMPT: str(sweep.attempt)}.items():
            client.set_tag(run_id, key, value)
        if layout.CANCEL in run.data.tags:
            client.delete_tag(run_id, layout.CANCEL)
        put_files(run.info.artifact_uri, {layout.TRIALS_FILE: encode_trials(sweep.trials)}, self._store.uri)
        return run

    def measure(self, numbers: Mapping[str, float]) -> None:
        """Log ``numbers`` as metrics."""
        from mlflow.entities import Metric

        if numbers:
            now = _now()
            self._store.client.log_batch(self.run_id, [Metric(key, float(value), now, 0) for key, value in numbers.items()])

    def log(self, text: str) -> None:
        """Keep what the sweep has said."""
        if text:
            put_files(self.uri, {layout.log_path(self._sweep.attempt): text.encode()}, self._store.uri)

    def end(self, status: str) -> None:
        """End the run, and delete trials' runs that were begun and never completed."""
        remove_begun(self._store, self.experiment_id, self.run_id)
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
