"""Writes complete child runs: through MLflow's client wherever it is, and for a SQLite file in bulk.

Both leave the same in MLflow; the tests read it back with MLflow's own client.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from orchestrator.tracking.artifacts import put_files
from orchestrator.tracking.bulk import BulkRecorder
from orchestrator.tracking.records import RunRecord
from orchestrator.tracking.store import Store
from orchestrator.tracking.uris import sqlite_path

_METRICS_PER_REQUEST = 1000
_PARAMS_PER_REQUEST = 100


class Recorder(Protocol):
    """Writes runs of one experiment."""

    @property
    def at_once(self) -> int:
        """How many runs are best given to one `write`."""

    def write(self, records: Sequence[RunRecord]) -> None:
        """Write complete runs. A run that is seen to have ended has everything."""


class ClientRecorder:
    """Writes through MLflow's client, with as few requests as its limits allow."""

    at_once = 1

    def __init__(self, store: Store, experiment_id: str) -> None:
        self._store = store
        self._experiment_id = experiment_id

    def write(self, records: Sequence[RunRecord]) -> None:
        """Write runs one by one, each one's status last."""
        for record in records:
            self._write(record)

    def _write(self, record: RunRecord) -> None:
        from mlflow.entities import Metric, Param

        client = self._store.client
        run = client.create_run(self._experiment_id, start_time=record.started, tags=record.tags, run_name=record.name)
        put_files(run.info.artifact_uri, record.files, self._store.uri)
        params = iter(Param(key, value) for key, value in record.params.items())
        metrics = iter(Metric(point.key, point.value, point.timestamp, point.step) for point in record.metrics)
        while True:
            some = list(islice(params, _PARAMS_PER_REQUEST))
            more = list(islice(metrics, _METRICS_PER_REQUEST - len(some)))
            if not some and not more:
                break
            client.log_batch(run.info.run_id, metrics=more, params=some)
        client.set_terminated(run.info.run_id, record.status, record.ended)


def recorder(store: Store, experiment_id: str) -> Recorder:
    """The fastest recorder that the store allows."""
    if sqlite_path(store.uri) is not None and BulkRecorder.fits():
        return BulkRecorder(store.uri, experiment_id, store.client.get_experiment(experiment_id).artifact_location)
    return ClientRecorder(store, experiment_id)
