"""Writes runs into MLflow's SQLite tables in bulk: the same rows, ten times as fast.

MLflow's store builds an object per metric value and looks the run up several times a request; that, not SQLite, is what a fast sweep
waits for. Here a batch of runs is a handful of inserts in one transaction, so that a run is either there, complete, or not at all.
The tables are MLflow's own definitions. Should a later version want columns that are not known here, `BulkRunWriter.fits` says so
and the client is used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from math import isinf, isnan
from typing import TYPE_CHECKING, Any

from orchestrator.tracking import layout
from orchestrator.tracking.write.artifacts import put_files
from orchestrator.tracking.write.run_record import MetricPoint, RunRecord

if TYPE_CHECKING:
    from sqlalchemy import Table

_PATIENCE = 60.0
"""Seconds to wait while another process writes to the file."""
_RUN = frozenset(
    {
        *("run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id", "status", "start_time", "end_time"),
        *("deleted_time", "source_version", "lifecycle_stage", "artifact_uri", "experiment_id"),
    }
)
_PAIR = frozenset({"run_uuid", "key", "value"})
_METRIC = _PAIR | {"timestamp", "step", "is_nan"}


class BulkRunWriter:
    """Writes runs of one experiment into a SQLite file."""

    at_once = 64

    def __init__(self, uri: str, experiment_id: str, artifact_location: str) -> None:
        import sqlalchemy

        self._uri = uri
        self._experiment_id = int(experiment_id)
        self._location = artifact_location
        self._tables = {table.name: table for table, _ in _tables()}
        self._engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, connect_args={"timeout": _PATIENCE})

    @staticmethod
    def fits() -> bool:
        """Return whether the tables of the installed MLflow are the ones known here."""
        return all(keys <= set(table.columns.keys()) and not _required(table) - keys for table, keys in _tables())

    def write(self, records: Sequence[RunRecord]) -> None:
        """Write runs in one transaction, those that are not there already. Their files come first."""
        from mlflow.utils.uri import append_to_uri_path

        present = self._present([record.run_id for record in records])
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in self._tables}
        for record in records:
            run_id = record.run_id
            if run_id in present:
                # Written by somebody who could not say so any more.
                continue
            artifact_uri = append_to_uri_path(self._location, run_id, "artifacts")
            put_files(artifact_uri, record.files, self._uri)
            rows["runs"].append(self._run(record, run_id, artifact_uri))
            tags = {**record.tags, layout.RUN_NAME: record.name}
            rows["tags"].extend({"run_uuid": run_id, "key": key, "value": value} for key, value in tags.items())
            rows["params"].extend({"run_uuid": run_id, "key": key, "value": value} for key, value in record.params.items())
            metrics = [_metric(run_id, point) for point in record.metrics]
            rows["metrics"].extend(metrics)
            # Points of a measure are in order of steps, so the last one is the latest.
            rows["latest_metrics"].extend({row["key"]: row for row in metrics}.values())
        with self._engine.begin() as connection:
            for name, table in self._tables.items():
                if rows[name]:
                    connection.execute(table.insert(), rows[name])

    def _present(self, run_ids: list[str]) -> set[str]:
        import sqlalchemy

        runs = self._tables["runs"].c
        with self._engine.connect() as connection:
            return set(connection.scalars(sqlalchemy.select(runs.run_uuid).where(runs.run_uuid.in_(run_ids))))

    def _run(self, record: RunRecord, run_id: str, artifact_uri: str) -> dict[str, Any]:
        return {
            "run_uuid": run_id,
            "name": record.name,
            "source_type": "UNKNOWN",
            "source_name": "",
            "entry_point_name": "",
            "user_id": record.tags.get(layout.USER, "unknown"),
            "status": record.status,
            "start_time": record.started,
            "end_time": record.ended,
            "deleted_time": None,
            "source_version": "",
            "lifecycle_stage": "active",
            "artifact_uri": artifact_uri,
            "experiment_id": self._experiment_id,
        }


def _metric(run_id: str, point: MetricPoint) -> dict[str, Any]:
    value, undefined = point.value, isnan(point.value)
    if undefined:
        # As MLflow stores them: a NaN has a column of its own, an infinity is the largest float.
        value = 0.0
    elif isinf(value):
        value = sys.float_info.max if value > 0 else -sys.float_info.max
    return {"run_uuid": run_id, "key": point.key, "value": value, "timestamp": point.timestamp, "step": point.step, "is_nan": undefined}


def _tables() -> Iterator[tuple[Table, frozenset[str]]]:
    """MLflow's tables, in the order in which they refer to each other, with the columns that are written here."""
    from mlflow.store.tracking.dbmodels import models

    yield models.SqlRun.__table__, _RUN
    yield models.SqlTag.__table__, _PAIR
    yield models.SqlParam.__table__, _PAIR
    yield models.SqlMetric.__table__, _METRIC
    yield models.SqlLatestMetric.__table__, _METRIC


def _required(table: Table) -> set[str]:
    return {column.name for column in table.columns if not (column.nullable or column.default or column.server_default)}
