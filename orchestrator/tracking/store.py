"""The MLflow store of a sweep: opened with care, the same for a SQLite file, a database and a server."""

from __future__ import annotations

import glob
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from orchestrator.errors import TrackingUnavailable, UsageError
from orchestrator.files import file_name
from orchestrator.tracking import layout, preflight
from orchestrator.tracking.artifacts import Artifacts
from orchestrator.tracking.bounded import DEFAULTS, bounded
from orchestrator.tracking.locks import machine_lock
from orchestrator.tracking.uris import is_http, redact, resolve, sqlite_path

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from orchestrator.storage.folder import Owner


UNFINISHED = ".{}.{}.{}.unfinished"
"""The name of a database while it is made: its own, this machine's, and the process's number."""
PAUSES = (0.2, 0.5, 1.0, 2.0)
"""Seconds between attempts to open a database that others are making. An attempt waits itself until another's transaction is over."""
FASTER = ("23505", "42P07", "42701", "42710", "40001", "40P01")
"""PostgreSQL's codes for what is there twice (a key, a table, a column, an object), and for transactions that were in each other's way."""
PROXIED = dict.fromkeys(("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD"), "false")
"""Files go through a server, whose address was given to us: it would send us to its bucket, which may be where we cannot reach it."""


@dataclass(frozen=True)
class Store:
    """An open store. ``uri`` may hold a password: print ``display`` instead."""

    uri: str = field(repr=False)
    client: MlflowClient = field(repr=False)

    @property
    def display(self) -> str:
        """The URI, fit to print."""
        return redact(self.uri)

    def owner(self, experiment: str) -> Owner:
        """Return what the folders of sweeps of an experiment call this store.

        A SQLite file is where it is. What is reached by a network may have many addresses: it is known by when it made the experiment.
        """
        from orchestrator.storage.folder import Owner

        path = sqlite_path(self.uri)
        if path is not None:
            return Owner(self.display, f"sqlite:{path}")
        with translated(self.display):
            found = self.client.get_experiment_by_name(experiment)
        if found is None or not found.creation_time:
            return Owner(self.display)
        # What a server and its database take differs.
        kind = "server" if is_http(self.uri) else "database"
        return Owner(self.display, f"{kind}:{found.experiment_id}:{found.creation_time}")

    def experiment(self, name: str) -> str:
        """Return the id of the experiment of that name, which is created if there is none. Raises `UsageError` if it was deleted."""
        from mlflow.exceptions import MlflowException

        with translated(self.display):
            found = self.client.get_experiment_by_name(name)
            if found is None:
                try:
                    return str(self.client.create_experiment(name, self._artifact_location(name), layout.EXPERIMENT_TAGS))
                except MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
                    # Somebody else was faster.
                    found = self.client.get_experiment_by_name(name)
            if found.lifecycle_stage == "deleted":
                raise UsageError(
                    f"the experiment {name!r} was deleted in MLflow; bring it back with "
                    f"`mlflow experiments restore --experiment-id {found.experiment_id}`, or give the grid another name"
                )
            if found.artifact_location.startswith("mlflow-artifacts:") and not is_http(self.uri):
                raise TrackingUnavailable(
                    f"the experiment {name!r} was created by an MLflow server, which alone can write its artifacts: "
                    "give that server's address as --tracking-uri, or give the grid another name"
                )
            return str(found.experiment_id)

    def artifacts(self, run: Run) -> Artifacts:
        """Return the artifacts of a run."""
        return Artifacts(run.info.artifact_uri, self.uri)

    def artifacts_of(self, run_id: str) -> Artifacts:
        """Return the artifacts of the run of an id. Raises what MLflow does."""
        return self.artifacts(self.client.get_run(run_id))

    def attach(self, run_id: str, files: Mapping[str, str | bytes]) -> None:
        """Add files to a run's artifacts, by their path among them. Others may do so at the same time."""
        with translated(self.display):
            encoded = {name: content.encode() if isinstance(content, str) else content for name, content in files.items()}
            self.artifacts_of(run_id).write(encoded, alone=False)

    def read(self, run_id: str, path: str) -> bytes:
        """Return a file among a run's artifacts."""
        with translated(self.display):
            return _there(self.artifacts_of(run_id), path)

    def texts(self, run_id: str, folder: str) -> list[str]:
        """Return the text files in a folder of a run's artifacts, in the order of their names."""
        with translated(self.display):
            artifacts = self.artifacts_of(run_id)
            # One whose name begins with a dot is being written.
            paths = [path for path in artifacts.names(folder) if not PurePosixPath(path).name.startswith(".")]
            return [_there(artifacts, path).decode(errors="replace") for path in paths]

    def measure(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Log metrics to a run that may have ended."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with translated(self.display):
            self.client.log_batch(run_id, [Metric(key, float(value), now, 0) for key, value in metrics.items()])

    def tag(self, run_id: str, key: str, value: str) -> None:
        """Set a tag of a run."""
        with translated(self.display):
            self.client.set_tag(run_id, key, value)

    def status(self, run_id: str) -> str:
        """How a run stands, in MLflow's words."""
        with translated(self.display):
            return str(self.client.get_run(run_id).info.status)

    def end(self, run_id: str, status: str) -> None:
        """Say of a run that it has ended, and how."""
        with translated(self.display):
            self.client.set_terminated(run_id, status)

    def _artifact_location(self, name: str) -> str | None:
        """Beside the SQLite file, wherever the process was started: MLflow would choose ``mlruns`` of the working directory."""
        path = sqlite_path(self.uri)
        if path is None:
            return None
        return str(path.parent / "mlruns" / file_name(name))


def _there(artifacts: Artifacts, path: str) -> bytes:
    content = artifacts.read(path)
    if content is None:
        raise FileNotFoundError(f"there is no {path} among the artifacts of the run")
    return content


def open_store(uri: str | None = None) -> Store:
    """Open the store at ``uri``, or else at ``MLFLOW_TRACKING_URI``, or else MLflow's default, ``sqlite:///mlflow.db``.

    Raises `TrackingUnavailable` within seconds if it cannot be used; then nothing has been created.
    """
    # Before MLflow is imported: no telemetry, and no run URLs on standard output, which may belong to ``--json``.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name, value in (*DEFAULTS.items(), *PROXIED.items()):
        os.environ.setdefault(name, value)
    resolved = resolve(uri)
    preflight.check(resolved)
    path = sqlite_path(resolved)
    if path is None:
        return _joined(resolved) if resolved.startswith("postgresql") else _connected(resolved)
    # One process is enough to make a database. Another user's is not held up by this, and neither does harm to the other.
    with machine_lock(f"schema\0{resolved}"):
        if not path.exists():
            _create(path)
        return _connected(resolved)


def _joined(uri: str) -> Store:
    """Open a PostgreSQL database, which others, on whatever machine, may be opening for the first time, too: MLflow makes its tables as if
    it were alone, and fails where another was faster. What it then finds is complete: all its migrations are one transaction."""
    for pause in PAUSES:
        try:
            return _connected(uri)
        except TrackingUnavailable as error:
            if not _another_was_faster(error):
                raise
        time.sleep(pause)
    return _connected(uri)


def _another_was_faster(error: BaseException | None) -> bool:
    """Return whether an error, or what has led to it, is that of a database in which the same was made at the same time."""
    while error is not None:
        original = getattr(error, "orig", None)
        # What psycopg 2 and psycopg 3 call it.
        if (getattr(original, "pgcode", None) or getattr(original, "sqlstate", None)) in FASTER:
            return True
        error = error.__cause__
    return False


def _create(path: Path) -> None:
    """Make an empty MLflow database in its place when it is complete: of one that is killed in the middle of its migrations, MLflow
    makes no use, and neither does it mend it. If another user is faster, theirs stays."""
    _remove_unfinished(path)
    unfinished = path.with_name(UNFINISHED.format(path.name, socket.gethostname(), os.getpid()))
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        _connected(f"sqlite:///{unfinished}", f"sqlite:///{path}")
        with suppress(FileExistsError):
            _put(unfinished, path)
    except BaseException:
        _remove(unfinished)
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()
        raise
    _remove(unfinished)


def _put(made: Path, path: Path) -> None:
    """Give a file another name. Raises `FileExistsError` if there is one of that name; what is there stays."""
    try:
        path.hardlink_to(made)
    except FileExistsError:
        raise
    except OSError:
        # No file system for links.
        made.rename(path)


def _remove(unfinished: Path) -> None:
    for leftover in (unfinished, unfinished.with_name(f"{unfinished.name}-journal")):
        leftover.unlink(missing_ok=True)


def _remove_unfinished(path: Path) -> None:
    """Remove what processes of this machine have left that were killed."""
    import psutil

    for leftover in path.parent.glob(glob.escape(UNFINISHED.format(path.name, socket.gethostname(), "")).removesuffix(".unfinished") + "*"):
        number = leftover.name.removesuffix("-journal").removesuffix(".unfinished").rpartition(".")[2]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            # Another user's may not be ours to remove.
            with suppress(OSError):
                leftover.unlink()


def is_there(uri: str | None = None) -> bool:
    """Return whether there may be a store: any but a SQLite file that does not exist. Imports nothing of MLflow."""
    path = sqlite_path(resolve(uri))
    try:
        return path is None or path.exists()
    except OSError:
        # Why it cannot be looked for is told to whoever opens it.
        return True


def open_existing(uri: str | None = None) -> Store:
    """Open a store to read from it. Raises `UsageError` if it is a SQLite file that does not exist, instead of creating it."""
    if not is_there(uri):
        path = sqlite_path(resolve(uri))
        raise UsageError(f"there is no MLflow database {path} yet: `orchestrate submit GRID` makes one, --tracking-uri names another")
    return open_store(uri)


@contextmanager
def translated(shown: str) -> Iterator[None]:
    """Turn MLflow's exceptions into one `TrackingUnavailable` line without credentials."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise TrackingUnavailable(f"the MLflow store {shown} cannot be used: {redact(lines[0])}") from error


def _connected(uri: str, shown: str | None = None) -> Store:
    from mlflow.tracking import MlflowClient

    # MLflow sets up its loggers when it is imported, so this comes after.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It logs with a traceback what it then raises, which is told in a line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with translated(shown or redact(uri)):
        client = MlflowClient(tracking_uri=uri)
        if sqlite_path(uri) is None:
            client = bounded(client)
        if not is_http(uri):
            # The first request is what opens a database and checks or creates its schema. A server has answered one already.
            client.search_experiments(max_results=1)
    return Store(uri, client)
