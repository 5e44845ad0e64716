"""Changes to many runs at once: through MLflow's client wherever they are, and in a database by a statement for hundreds of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestrator.tracking import layout
from orchestrator.tracking.read.runs import experiments_of, search, tag_is
from orchestrator.tracking.store import Store, translated
from orchestrator.tracking.uris import is_http, sqlite_path
from orchestrator.tracking.write.bulk import PATIENCE, BulkRunWriter
from orchestrator.tracking.write.client import CONNECTIONS

if TYPE_CHECKING:
    from mlflow.entities import Run
    from sqlalchemy import Connection

_AT_ONCE = 500
"""Runs that one statement is about."""


def children(store: Store, parent: Run) -> list[str]:
    """Return the runs, not deleted, of the trials of a sweep, whose own is ``parent``. Raises `orchestrator.errors.TrackingUnavailable`."""
    if not BulkRunWriter.fits(store.uri):
        return [run.info.run_id for run in search(store, experiments_of(parent), tag_is(layout.PARENT, parent.info.run_id))]
    import sqlalchemy
    from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag

    with _connected(store) as connection:
        query = sqlalchemy.select(SqlRun.run_uuid).join(SqlTag, SqlTag.run_uuid == SqlRun.run_uuid)
        query = query.where(SqlTag.key == layout.PARENT, SqlTag.value == parent.info.run_id, SqlRun.lifecycle_stage == "active")
        return list(connection.scalars(query))


def delete_runs(store: Store, run_ids: Sequence[str]) -> None:
    """Mark runs as deleted, as MLflow does. Raises `orchestrator.errors.TrackingUnavailable`."""
    if not BulkRunWriter.fits(store.uri):
        _each(store, store.client.delete_run, run_ids)
        return
    _mark(store, run_ids, {"lifecycle_stage": "deleted", "deleted_time": int(time.time() * 1000)})


def restore_runs(store: Store, run_ids: Sequence[str]) -> None:
    """Take back that runs were deleted, as MLflow does. Raises `orchestrator.errors.TrackingUnavailable`."""
    if not BulkRunWriter.fits(store.uri):
        _each(store, store.client.restore_run, run_ids)
        return
    _mark(store, run_ids, {"lifecycle_stage": "active", "deleted_time": None})


def _mark(store: Store, run_ids: Sequence[str], marked: Mapping[str, Any]) -> None:
    import sqlalchemy
    from mlflow.store.tracking.dbmodels.models import SqlRun

    with _connected(store) as connection:
        for some in _parts(run_ids):
            connection.execute(sqlalchemy.update(SqlRun).where(SqlRun.run_uuid.in_(some)).values(marked))


def retag(store: Store, tags: Mapping[str, Mapping[str, str]]) -> None:
    """Set tags of runs, by run id. Raises `orchestrator.errors.TrackingUnavailable`."""
    if not BulkRunWriter.fits(store.uri):

        def set_all(run_id: str) -> None:
            for key, value in tags[run_id].items():
                store.client.set_tag(run_id, key, value)

        _each(store, set_all, tags)
        return
    import sqlalchemy
    from mlflow.store.tracking.dbmodels.models import SqlTag

    with _connected(store) as connection:
        for some in _parts(list(tags)):
            keys = {key for run_id in some for key in tags[run_id]}
            rows = [{"run_uuid": run_id, "key": key, "value": value} for run_id in some for key, value in tags[run_id].items()]
            there = connection.execute(
                sqlalchemy.select(SqlTag.run_uuid, SqlTag.key).where(SqlTag.run_uuid.in_(some), SqlTag.key.in_(keys))
            )
            known = {(run_id, key) for run_id, key in there}
            for row in rows:
                if (row["run_uuid"], row["key"]) in known:
                    which = sqlalchemy.and_(SqlTag.run_uuid == row["run_uuid"], SqlTag.key == row["key"])
                    connection.execute(sqlalchemy.update(SqlTag).where(which).values(value=row["value"]))
            if new := [row for row in rows if (row["run_uuid"], row["key"]) not in known]:
                connection.execute(sqlalchemy.insert(SqlTag), new)


@contextmanager
def _connected(store: Store) -> Iterator[Connection]:
    """Provide a transaction in a store's database."""
    import sqlalchemy

    options: dict[str, Any] = {"timeout": PATIENCE} if sqlite_path(store.uri) is not None else {}
    engine = sqlalchemy.create_engine(store.uri, poolclass=sqlalchemy.NullPool, connect_args=options)
    with translated(store.display), engine.begin() as connection:
        yield connection


def _each(store: Store, change: Callable[[str], Any], run_ids: Collection[str]) -> None:
    with translated(store.display), ThreadPoolExecutor(CONNECTIONS if is_http(store.uri) else 1) as threads:
        for _ in threads.map(change, run_ids):
            pass


def _parts(run_ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (run_ids[start : start + _AT_ONCE] for start in range(0, len(run_ids), _AT_ONCE))
