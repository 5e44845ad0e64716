"""Writes complete child runs: through MLflow's client wherever it is, and for a database in bulk.

Both leave the same in MLflow; the tests read it back with MLflow's own client. Both may be given a run again, after an error or by a
process that goes on with a sweep whose writer died, and leave one.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Protocol

from orchestrator.tracking import layout
from orchestrator.tracking.artifacts import put_files
from orchestrator.tracking.read.runs import search, tag_is
from orchestrator.tracking.store import Store
from orchestrator.tracking.uris import is_http
from orchestrator.tracking.write.bulk import BulkRunWriter
from orchestrator.tracking.write.run_record import RunRecord

CONNECTIONS = 8
"""To a server: of four workers, MLflow's default, each has one to answer and one to read."""
_METRICS_PER_REQUEST = 1000
_PARAMS_PER_REQUEST = 100


class RunWriter(Protocol):
    """Writes runs of one experiment."""

    @property
    def at_once(self) -> int:
        """How many runs are best given to one `write`."""

    def write(self, records: Sequence[RunRecord]) -> list[str]:
        """Write complete runs, those that are not there already. A run that is seen to have ended has everything. Returns their ids."""


class ClientRunWriter:
    """Writes through MLflow's client, with as few requests as its limits allow.

    A server is written to over several connections: it has several workers, and each waits for its database. It chooses a run's id, so
    what was begun is looked for: after an error, and with ``again`` from the start.
    """

    def __init__(self, store: Store, experiment_id: str, *, again: bool = False) -> None:
        self._connections = CONNECTIONS if is_http(store.uri) else 1
        self._store = store
        self._experiment_id = experiment_id
        self._unsure = again
        self._begun: dict[tuple[str, str, str], tuple[str, bool]] = {}
        """Runs by parent, trial and attempt: their ids, and whether they are complete."""

    @property
    def at_once(self) -> int:
        return self._connections

    def write(self, records: Sequence[RunRecord]) -> list[str]:
        """Write runs, each one's status last."""
        if self._unsure and records:
            self._look(records[0].tags[layout.PARENT])
            self._unsure = False
        try:
            if self._connections == 1 or len(records) == 1:
                return [self._write(record) for record in records]
            with ThreadPoolExecutor(min(self._connections, len(records))) as threads:
                return list(threads.map(self._write, records))
        except BaseException:
            self._unsure = True
            raise

    def _look(self, parent_id: str) -> None:
        self._begun.clear()
        for run in search(self._store, [self._experiment_id], tag_is(layout.PARENT, parent_id)):
            tags = run.data.tags
            key = (parent_id, tags.get(layout.TRIAL_ID, ""), tags.get(layout.ATTEMPT, ""))
            if key not in self._begun or run.info.status in layout.TERMINAL:
                self._begun[key] = (run.info.run_id, run.info.status in layout.TERMINAL)

    def _write(self, record: RunRecord) -> str:
        from mlflow.entities import Metric, Param

        client = self._store.client
        key = (record.tags[layout.PARENT], record.tags[layout.TRIAL_ID], record.tags.get(layout.ATTEMPT, ""))
        run_id, complete = self._begun.get(key, (None, False))
        if complete:
            assert run_id is not None
            return run_id
        if run_id is None:
            run = client.create_run(self._experiment_id, start_time=record.started, tags=record.tags, run_name=record.name)
        else:
            run = client.get_run(run_id)
        run_id = str(run.info.run_id)
        put_files(run.info.artifact_uri, record.files, self._store.uri)
        params = iter(Param(key, value) for key, value in record.params.items())
        metrics = iter(Metric(*point) for point in record.metrics)
        while True:
            some = list(islice(params, _PARAMS_PER_REQUEST))
            more = list(islice(metrics, _METRICS_PER_REQUEST - len(some)))
            if not some and not more:
                break
            client.log_batch(run_id, metrics=more, params=some)
        client.set_terminated(run_id, record.status, record.ended)
        # It comes again if anything fails that its batch has to have besides.
        self._begun[key] = (run_id, True)
        return run_id


def run_writer(store: Store, experiment_id: str, *, again: bool = False) -> RunWriter:
    """Return the fastest run writer that the store allows; ``again`` if some of what it will be given may have been written before."""
    if BulkRunWriter.fits(store.uri):
        return BulkRunWriter(store.uri, experiment_id, store.client.get_experiment(experiment_id).artifact_location)
    return ClientRunWriter(store, experiment_id, again=again)
