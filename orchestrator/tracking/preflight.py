"""Can the store be used? Found out in seconds and without a trace: MLflow itself would retry for minutes, or leave files behind."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

from orchestrator.deadline import within
from orchestrator.errors import TrackingUnavailable
from orchestrator.tracking.uris import is_http, redact, sqlite_path

if TYPE_CHECKING:
    from requests import Response

TIMEOUT = 10.0
"""Seconds to wait for a connection, or for a lock."""
ANSWER_SECONDS = 60.0
"""Seconds to wait for the answer of a server that takes connections. One that many ask at once takes some, as it does later on."""
BUSY = 429
"""The status by which a server says that too many ask at once."""
BUSY_SECONDS = 2.0
"""When to ask one again that does not say when."""
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def check_place(uri: str, *, seconds: float = TIMEOUT) -> None:
    """Raise `TrackingUnavailable` as `check` does for what can be told without MLflow: a file that is none, a port that is closed.

    A connection, and a lock of the file, may take ``seconds``.
    """
    path = sqlite_path(uri)
    if path is not None:
        try:
            _check_sqlite(path, seconds)
        except OSError as error:
            # Of a folder that is closed to us, or a name that no file can have.
            raise TrackingUnavailable(f"cannot look for {path}: {error.strerror}; choose another --tracking-uri") from None
    elif uri.startswith("sqlite:"):
        raise TrackingUnavailable(f"{uri} keeps nothing: give a file, such as sqlite:///mlflow.db")
    elif is_http(uri) and not getproxies():
        url = urlsplit(uri)
        try:
            _reach(url.hostname or "", url.port or (443 if url.scheme == "https" else 80), seconds)
        except (OSError, ValueError) as error:
            raise _unreachable(uri, error) from None


def check(uri: str, *, answer_seconds: float = ANSWER_SECONDS) -> None:
    """Raise `TrackingUnavailable` with one line that says what is wrong and what to do, unless the store looks usable.

    A server that takes a connection may take ``answer_seconds`` to answer on it.
    """
    check_place(uri)
    if is_http(uri):
        _check_server(uri, answer_seconds)
    elif uri.partition("://")[0].partition("+")[0] in _PORTS:
        _check_database(uri, answer_seconds)


def _check_sqlite(path: Path, seconds: float) -> None:
    if not path.exists():
        folder = next(parent for parent in path.parents if parent.exists())
        if not folder.is_dir():
            raise TrackingUnavailable(f"cannot create {path}: {folder} is not a folder; choose another --tracking-uri")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise TrackingUnavailable(f"cannot create {path}: {folder} is not writable; choose another --tracking-uri")
        return
    if not path.is_file():
        raise TrackingUnavailable(f"{path} is not a file; choose another --tracking-uri")
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(path.parent, os.W_OK | os.X_OK):
        # SQLite keeps its journal beside the database, so the folder counts too.
        raise TrackingUnavailable(f"{path} or its folder is not writable; change the permissions or choose another --tracking-uri")
    try:
        # To write: SQLite puts back what a process that was killed had half changed, as soon as anybody reads it.
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=seconds)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            revisions = (
                [name for (name,) in database.execute("SELECT version_num FROM alembic_version")] if "alembic_version" in tables else []
            )
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise TrackingUnavailable(f"{path} is locked by another process: try again once that is through with it") from None
        raise TrackingUnavailable(
            f"{path} is not a usable MLflow database ({error}); move it away or choose another --tracking-uri"
        ) from None
    if tables and not revisions:
        raise TrackingUnavailable(f"{path} is a database of something else than MLflow; choose another --tracking-uri")
    unknown = [revision for revision in revisions if not _known(revision)]
    if unknown:
        raise TrackingUnavailable(f"{path} was written by a newer MLflow (its schema is {unknown[0]}); update with pip install -U mlflow")


def _known(revision: str) -> bool:
    """Return whether the installed MLflow has the migration to a schema. Its files are named after them."""
    # Found without importing MLflow, which takes seconds.
    found = find_spec("mlflow")
    assert found is not None
    assert found.origin is not None
    return any((Path(found.origin).parent / "store" / "db_migrations" / "versions").glob(f"{revision}_*.py"))


def _reach(host: str, port: int, seconds: float = TIMEOUT) -> None:
    """Raise `OSError` unless somebody takes connections. Names may take longer to be found than connections to be made."""
    within(2 * seconds, socket.create_connection, (host, port), seconds).close()


def _check_server(uri: str, answer_seconds: float) -> None:
    shown, until = redact(uri), time.monotonic() + answer_seconds
    response = _ask(uri, answer_seconds)
    while response.status_code == BUSY:
        after = response.headers.get("Retry-After", "")
        wait = float(after) if after.isdecimal() else BUSY_SECONDS
        if time.monotonic() + wait > until:
            raise TrackingUnavailable(f"the MLflow server {shown} is busy ({BUSY}, too many requests): try again in a while")
        time.sleep(wait)
        response = _ask(uri, answer_seconds)
    status = response.status_code
    if status in (401, 403):
        raise TrackingUnavailable(
            f"the MLflow server {shown} refuses access ({status}); "
            "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if status >= 500:
        raise TrackingUnavailable(f"the MLflow server {shown} answers with error {status}; its log says why")
    if status != 200 or not response.headers.get("Content-Type", "").startswith("application/json"):
        raise TrackingUnavailable(f"{shown} answers, but not as an MLflow server ({status}); is the address right?")


def _ask(uri: str, answer_seconds: float) -> Response:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    connecting = min(TIMEOUT, answer_seconds)
    try:
        # MLflow's own request, so that credentials, certificates and plugins count as they will later; only its patience is cut.
        response: Response = within(
            connecting + answer_seconds,
            http_request,
            get_default_host_creds(uri),
            "/api/2.0/mlflow/experiments/search",
            "GET",
            params={"max_results": 1},
            timeout=(connecting, answer_seconds),
            max_retries=0,
            raise_on_status=False,
        )
    except (MlflowException, OSError) as error:
        raise _unreachable(uri, error) from None
    return response


def _unreachable(uri: str, error: Exception) -> TrackingUnavailable:
    reason = "it does not answer in time" if "timed out" in str(error).lower() else "nothing answers there"
    return TrackingUnavailable(f"cannot reach the MLflow server {redact(uri)}: {reason}; is it running, and is the address right?")


def _check_database(uri: str, answer_seconds: float) -> None:
    import sqlalchemy

    shown = redact(uri)
    try:
        url = sqlalchemy.make_url(uri)
        if url.host:
            # A port first: drivers disagree on how a connection timeout is spelled.
            _reach(url.host, url.port or _PORTS[url.get_backend_name()])
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        within(answer_seconds, lambda: engine.connect().close())
    except OSError as error:
        raise TrackingUnavailable(f"cannot reach the database {shown} ({error.strerror or error}); is it running?") from None
    except ValueError:
        raise TrackingUnavailable(f"{shown} is not the address of a database: after the host comes a port, which is a number") from None
    except ImportError as error:
        raise TrackingUnavailable(f"the driver of {shown} is not installed: pip install {error.name}") from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = redact(str(getattr(error, "orig", None) or error).strip().splitlines()[0])
        raise TrackingUnavailable(f"cannot use the database {shown}: {reason}") from None
