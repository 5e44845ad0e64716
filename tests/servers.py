"""Servers that tests start on loopback and stop again: MLflow, with and without passwords, and the PostgreSQL behind it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.cluster.slurm.node import free_port
from tests import processes

SERVER_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Ten more processes, which take most of the time to start, for what we do not use.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def await_port(port: int, process: subprocess.Popen[Any] | None = None, log: Path | None = None) -> None:
    """Wait until somebody listens on loopback. Raises if ``process``, which should, ends before; its ``log`` says why."""

    def listening() -> bool:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"the server has ended with {process.returncode}:\n{log.read_text() if log else ''}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    processes.eventually(listening, f"nobody listens on port {port}")


def mlflow_command(host: str, port: int, backend: str, artifacts: Path | str, *options: str, workers: int = 1) -> list[str]:
    """The command line of an MLflow server that also hands out artifacts."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", str(workers)]
    return [*command, "--backend-store-uri", backend, "--artifacts-destination", str(artifacts), *options]


@dataclass(frozen=True)
class MlflowServer:
    """A running MLflow server. ``environment`` is what a client needs besides its address."""

    uri: str
    environment: dict[str, str] = field(repr=False)


@contextmanager
def mlflow_server(
    folder: Path, backend: str, *, password: bool = False, workers: int = 1, artifacts: str = "", settings: Mapping[str, str] | None = None
) -> Iterator[MlflowServer]:
    """An MLflow server on the database ``backend`` whose files are in ``folder``, and artifacts there or in ``artifacts``.

    With ``password`` nobody gets in without one. ``settings`` are put over its environment.
    """
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PYTEST_"))}
    environment |= SERVER_ENVIRONMENT | dict(settings or {})
    credentials, options = {}, []
    if password:
        credentials = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": secrets.token_hex(12)}
        settings = folder / "auth.ini"
        settings.write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\nadmin_username = admin\n"
            f"admin_password = {credentials['MLFLOW_TRACKING_PASSWORD']}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            # A password is hashed for a tenth of a second, which tests need not wait for at each request.
            "auth_cache_ttl_seconds = 600\n"
        )
        environment |= {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16)}
        options = ["--app-name", "basic-auth"]
    command = mlflow_command("127.0.0.1", port, backend, artifacts or folder / "artifacts", *options, workers=workers)
    with (folder / "server.log").open("wb") as log:
        process = processes.popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        await_port(port, process, folder / "server.log")
        yield MlflowServer(f"http://127.0.0.1:{port}", credentials)
    finally:
        process.terminate()
        processes.communicate(process)


@contextmanager
def bucket_server(folder: Path) -> Iterator[dict[str, str]]:
    """An S3-compatible server with a bucket called ``bucket``. Yields what tools find in their environment to reach it."""
    import boto3

    port = free_port()
    environment = {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(12),
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with (folder / "bucket.log").open("wb") as log:
        process = processes.popen([sys.executable, "-m", "moto.server", "-p", str(port)], cwd=folder, stdout=log, stderr=log)
    try:
        await_port(port, process, folder / "bucket.log")
        named = {"endpoint_url": "AWS_ENDPOINT_URL_S3", "aws_access_key_id": "AWS_ACCESS_KEY_ID"}
        named |= {"aws_secret_access_key": "AWS_SECRET_ACCESS_KEY", "region_name": "AWS_DEFAULT_REGION"}
        boto3.client("s3", **{name: environment[variable] for name, variable in named.items()}).create_bucket(Bucket="bucket")
        yield environment
    finally:
        process.terminate()
        processes.communicate(process)


def no_postgresql() -> str:
    """Why `postgresql` cannot work here; empty if it can."""
    if _binaries() is None:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    return ""


def _binaries() -> Path | None:
    """Where the newest PostgreSQL's programs are. Debian does not put a server's on the path."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    on_path = shutil.which("createdb")
    return debian[-1] if debian else Path(on_path).parent if on_path else None


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL server with a user who needs a password. Yields the URI of an empty database of theirs."""
    binaries = _binaries()
    assert binaries is not None, no_postgresql()
    password, port = secrets.token_hex(12), free_port()
    # It refuses to run as root.
    who: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}

    def run(command: Sequence[str | Path], **options: Any) -> None:
        done = processes.run([str(word) for word in command], **who, **options)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    with tempfile.TemporaryDirectory(prefix="postgresql-") as name:
        folder = Path(name)
        (folder / "password").write_text(password)
        if who:
            shutil.chown(folder, "postgres", "postgres")
            shutil.chown(folder / "password", "postgres", "postgres")
        data = folder / "data"
        login = ("--username=mlflow", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}")
        run([binaries / "initdb", f"--pgdata={data}", *login, "--encoding=UTF8", "--locale=C", "--no-sync"], cwd=folder)
        # As many connections as eight sweeps and a server with workers want; no sync, since nobody needs the data after a power cut.
        options = (
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"unix_socket_directories={folder}",
            "-c",
            "fsync=off",
            "-c",
            "max_connections=200",
        )
        with (folder / "log").open("wb") as log:
            process = processes.popen(
                [str(binaries / "postgres"), "-D", str(data), "-p", str(port), *options], cwd=folder, stdout=log, stderr=log, **who
            )
        try:
            await_port(port, process, folder / "log")
            # It listens before it takes anybody.
            ready = [binaries / "pg_isready", "--host=127.0.0.1", f"--port={port}", "--quiet"]
            processes.eventually(lambda: subprocess.run(ready, check=False).returncode == 0, (folder / "log").read_text)
            run(
                [binaries / "createdb", "--host=127.0.0.1", f"--port={port}", "--username=mlflow", "mlflow"],
                cwd=folder,
                env=os.environ | {"PGPASSWORD": password},
            )
            yield f"postgresql+psycopg2://mlflow:{password}@127.0.0.1:{port}/mlflow"
        finally:
            # Fast shutdown, which does not wait for clients.
            process.send_signal(signal.SIGINT)
            processes.communicate(process)
