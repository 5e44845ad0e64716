"""The program in processes of its own that have their imports done: forked from one that has nothing but those.

A command that uses MLflow takes 3 s of a core to import it, which is most of what it does. Such a process is otherwise what
`tests.processes.popen` starts: a session with an environment, a folder, output, signals and an exit status of its own. Ray, PyTorch and
whatever else reads its settings when it is imported are left to the process that needs them. Where the start itself is at stake, or what
the system knows of a process's environment, tests use `tests.processes`. What is forked is `orchestrator.cli.server`, as for users who
keep a cluster up.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from orchestrator.cli.server import BEGIN, Order, told
from tests import processes

ROOT = Path(__file__).parents[1]
PROGRAM = "orchestrator.cli.main"
IMPORTS = (
    # What Ray imports, which itself is not here.
    "aiohttp",
    "aiohttp_cors",
    "jsonschema",
    "prometheus_client",
    # Ours, and what it imports.
    "alembic.command",
    "mlflow.store.artifact.http_artifact_repo",
    "mlflow.store.artifact.local_artifact_repo",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking",
    "orchestrator.cli.commands.submit",
    "orchestrator.sweeps.submit",
    "pyarrow.parquet",
    "safetensors.numpy",
    "tests.patient",
    "tests.unsynced",
)


class Forked:
    """``python -m module arguments``, with those methods of `subprocess.Popen` that tests use.

    ``stdout`` and ``stderr`` are files; `communicate` returns what is written where none is given.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        module: str = PROGRAM,
        stdout: IO[str] | None = None,
        stderr: IO[str] | None = None,
        server: ForkServer | None = None,
    ) -> None:
        self.args = [module, *arguments]
        self.returncode: int | None = None
        self._own = [None if file else tempfile.TemporaryFile("w+") for file in (stdout, stderr)]  # noqa: SIM115
        files = [file or own for file, own in zip((stdout, stderr), self._own, strict=True)]
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str((server or own_fork_server()).path))
        with Path(os.devnull).open() as nothing:
            Order(module, [*arguments], str(cwd), dict(env)).send(self._connection, [file.fileno() for file in (nothing, *files) if file])
        self.pid = self._told()
        # It waits for this.
        self._connection.sendall(BEGIN)

    def poll(self) -> int | None:
        """The exit status, negative for a signal; `None` while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = self._told()
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end, and return what it has written to files of its own."""
        self.wait(timeout)
        out, errors = (_read(file) for file in self._own)
        return out, errors

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def _told(self) -> int:
        number = told(self._connection)
        assert number is not None, f"what {' '.join(self.args)} is forked from has ended"
        return number


def _read(file: IO[str] | None) -> str:
    if file is None:
        return ""
    with file:
        file.seek(0)
        return file.read()


def run(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], server: ForkServer | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program and return what it said, whatever its exit status."""
    process = Forked(arguments, cwd=cwd, env=env, server=server)
    out, errors = processes.communicate(process)
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


class ForkServer:
    """A process that others are forked from: ``prefix python -m orchestrator.cli.server path``. ``options`` are `subprocess.Popen`'s."""

    def __init__(self, path: Path, prefix: Sequence[str] = (), modules: Sequence[str] = IMPORTS, **options: Any) -> None:
        self.path = path
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_", "PYTEST_"))}
        command = [*prefix, sys.executable, "-m", "orchestrator.cli.server", str(path), *modules]
        # It ends when its standard input does.
        self._process = processes.popen(command, stdin=subprocess.PIPE, **{"cwd": ROOT, "env": environment, **options})
        processes.eventually(lambda: path.exists() or not self.alive)
        assert self.alive, f"{command} ends with {self._process.returncode}"

    @property
    def alive(self) -> bool:
        """Whether it can be forked."""
        return self._process.poll() is None

    def end(self) -> None:
        """End it. Programs go on."""
        processes.communicate(self._process)


_own: list[ForkServer] = []


def own_fork_server() -> ForkServer:
    """That of this process. It is started when it is asked for, or when it was ended."""
    if not _own or not _own[0].alive:
        end_own_fork_server()
        _own.append(ForkServer(Path(tempfile.mkdtemp(prefix="fork"), "s")))
    return _own[0]


def end_own_fork_server() -> None:
    """End it, if there is one."""
    while _own:
        server = _own.pop()
        server.end()
        shutil.rmtree(server.path.parent)
