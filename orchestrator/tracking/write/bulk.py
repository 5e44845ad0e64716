"""Writes runs into the tables of MLflow's database in bulk: the same rows, many times as fast.

MLflow's store builds an object per metric value and looks the run up several times a request; that, not the database, is what a fast sweep
waits for. Here some hundred runs are a handful of inserts in one transaction, so that a run is either there, complete, or not at all. Rows
go in the order of the tables' primary keys, on a connection that is kept, so that they come to lie beside each other.
The tables are MLflow's own definitions. Should a later version want columns that are not known here, `BulkRunWriter.fits` says so
and the client is used.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from orchestrator.tracking import layout
from orchestrator.tracking.artifacts import put_files
from orchestrator.tracking.uris import sqlite_path
from orchestrator.tracking.write.run_record import RunRecord
from orchestrator.tracking.write.tables import Columns, insert

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

PATIENCE = 60.0
"""Seconds to wait while another process writes to the file."""
_CACHE = 128 << 10
"""KiB of a file's pages that are kept: all that one transaction changes, so that readers are held up by its end alone."""
_TRIES = 500
"""Ids that one query asks for."""
_RUN: Columns = (
    *("run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id", "status", "start_time", "end_time"),
    *("deleted_time", "source_version", "lifecycle_stage", "artifact_uri", "experiment_id"),
)
_PAIR: Columns = ("key", "value", "run_uuid")
_METRIC: Columns = ("key", "value", "timestamp", "step", "run_uuid", "is_nan")
_LARGEST = sys.float_info.max


class BulkRunWriter:
    """Writes runs of one experiment into a database: a SQLite file, or PostgreSQL."""

    at_once = 512

    def __init__(self, uri: str, experiment_id: str, artifact_location: str) -> None:
        import sqlalchemy

        self._uri = uri
        self._experiment_id = int(experiment_id)
        self._location = artifact_location
        self._runs, *self._others = (table for table, _ in _tables())
        local = sqlite_path(uri) is not None
        self._engine = sqlalchemy.create_engine(uri, pool_size=1, max_overflow=0, connect_args={"timeout": PATIENCE} if local else {})
        if local:
            sqlalchemy.event.listen(self._engine, "connect", lambda raw, _: raw.execute(f"PRAGMA cache_size = -{_CACHE}"))

    @staticmethod
    def fits(uri: str) -> bool:
        """Return whether runs can be written into the database at ``uri``: the tables of the installed MLflow are the ones known here."""
        if sqlite_path(uri) is None and not uri.startswith("postgresql"):
            return False
        return all(set(keys) <= set(table.columns.keys()) and not _required(table) - set(keys) for table, keys in _tables())

    def present(self, run_ids: Sequence[str]) -> set[str]:
        """Return those of some ids that runs have, whatever experiment they are in and whether they were deleted or not."""
        with self._engine.connect() as connection:
            return self._present(connection, run_ids)

    def write(self, records: Sequence[RunRecord]) -> list[str]:
        """Write runs in one transaction, those that are not there already. Their files come first. Returns their ids."""
        from mlflow.utils.uri import append_to_uri_path

        with self._engine.connect() as connection, _no_garbage():
            # Those that are there were written by somebody who could not say so any more.
            present = self._present(connection, [record.run_id for record in records])
            new = sorted((record for record in records if record.run_id not in present), key=lambda record: record.run_id)
            places = {record.run_id: append_to_uri_path(self._location, record.run_id, "artifacts") for record in new}
            # No transaction waits for files.
            connection.rollback()
            for record in new:
                put_files(places[record.run_id], record.files, self._uri)
            with connection.begin():
                insert(connection, self._runs, _RUN, (self._run(record, places[record.run_id]) for record in new))
                for table, columns, rows in zip(self._others, (_PAIR, _PAIR, _METRIC, _METRIC), _rows(new), strict=True):
                    insert(connection, table, columns, rows)
        return [record.run_id for record in records]

    def _present(self, connection: Connection, run_ids: Sequence[str]) -> set[str]:
        import sqlalchemy

        column = self._runs.c.run_uuid
        found: set[str] = set()
        for start in range(0, len(run_ids), _TRIES):
            found.update(connection.scalars(sqlalchemy.select(column).where(column.in_(run_ids[start : start + _TRIES]))))
        return found

    def _run(self, record: RunRecord, artifact_uri: str) -> tuple[Any, ...]:
        user = record.tags.get(layout.USER, "unknown")
        times = (record.started, record.ended)
        return (
            *(record.run_id, record.name, "UNKNOWN", "", "", user, record.status, *times),
            *(None, "", "active", artifact_uri, self._experiment_id),
        )


def _rows(records: Sequence[RunRecord]) -> tuple[Iterable[tuple[Any, ...]], ...]:
    """Return the rows of tags, params, metrics and latest metrics, each in the order of its table's primary key, as far as that helps.

    Params of a run stay in its order, in which MLflow's page shows them.
    """
    tags = [(key, value, r.run_id) for r in records for key, value in (*r.tags.items(), (layout.RUN_NAME, r.name))]
    placed = sorted((place, key, value, r.run_id) for r in records for place, (key, value) in enumerate(r.params.items()))
    params = [(key, value, run_id) for _, key, value, run_id in placed]
    metrics = [
        (key, value, time, step, r.run_id, False) if math.isfinite(value) else (key, *_stored(value, time, step, r.run_id))
        for r in records
        for key, value, time, step in r.metrics
    ]
    # By measure and run: times of runs that were trained side by side would scatter the rows of each. The sort is stable.
    metrics.sort(key=itemgetter(0))
    # Points of a measure are in order of steps, so the last one is the latest.
    latest = {(key, run_id): (key, value, time, step, run_id, undefined) for key, value, time, step, run_id, undefined in metrics}
    return sorted(tags), params, metrics, list(latest.values())


def _stored(value: float, time: int, step: int, run_id: str) -> tuple[float, int, int, str, bool]:
    """Return the end of a row as MLflow stores it: a NaN has a column of its own, an infinity is the largest float."""
    undefined = math.isnan(value)
    return 0.0 if undefined else math.copysign(_LARGEST, value), time, step, run_id, undefined


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Let Python look for no garbage meanwhile: among rows by the hundred thousand it looks for long, and there is none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _tables() -> Iterator[tuple[Table, Columns]]:
    """MLflow's tables, in the order in which they refer to each other, with the columns that are written here."""
    from mlflow.store.tracking.dbmodels import models

    yield models.SqlRun.__table__, _RUN
    yield models.SqlTag.__table__, _PAIR
    yield models.SqlParam.__table__, _PAIR
    yield models.SqlMetric.__table__, _METRIC
    yield models.SqlLatestMetric.__table__, _METRIC


def _required(table: Table) -> set[str]:
    return {column.name for column in table.columns if not (column.nullable or column.default or column.server_default)}
