"""The program in processes of its own that have their imports done: forked from one that has nothing but those.

A command that uses MLflow takes 3 s of a core to import it, which is most of what it does. Such a process is otherwise what
`tests.processes.popen` starts: a session with an environment, a folder, output, signals and an exit status of its own. Ray, PyTorch and
whatever else reads its settings when it is imported are left to the process that needs them. Where the start itself is at stake, or what
the system knows of a process's environment, tests use `tests.processes`.

``python -m tests.forked SOCKET`` is the process that is forked. It ends with the one that started it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

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
)
_NUMBER = struct.Struct("!q")


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
        asked = json.dumps({"module": module, "arguments": [*arguments], "cwd": str(cwd), "env": dict(env)}).encode()
        socket.send_fds(self._connection, [asked[:1]], [file.fileno() for file in files if file])
        self._connection.sendall(asked[1:])
        self._connection.shutdown(socket.SHUT_WR)
        self.pid = self._told()

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
        told = self._connection.recv(_NUMBER.size)
        assert told, f"what {' '.join(self.args)} is forked from has ended"
        return int(_NUMBER.unpack(told)[0])


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
    """A process that others are forked from: ``prefix python -m tests.forked path``. ``options`` are `subprocess.Popen`'s."""

    def __init__(self, path: Path, prefix: Sequence[str] = (), **options: Any) -> None:
        self.path = path
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_", "PYTEST_"))}
        command = [*prefix, sys.executable, "-m", "tests.forked", str(path)]
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


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Forks a process for each program, which forks the program and waits for it."""

    request_queue_size = 100
    max_children = 1000
    block_on_close = False

    def service_actions(self) -> None:
        super().service_actions()
        if select.select([0], [], [], 0)[0] and not os.read(0, 1):
            sys.exit()


class _Request(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        # What ends a test ends whole groups.
        os.setpgid(0, 0)
        piece, files, _, _ = socket.recv_fds(self.request, 1, 2)
        rest = self.request.makefile("rb").read()
        pid = os.fork()
        if not pid:
            self.request.close()
            _become(files, **json.loads(piece + rest))
        self.request.sendall(_NUMBER.pack(pid))
        _, status = os.waitpid(pid, 0)
        # Who asked may have gone.
        with suppress(OSError):
            self.request.sendall(_NUMBER.pack(os.waitstatus_to_exitcode(status)))


def _become(files: Sequence[int], module: str, arguments: list[str], cwd: str, env: dict[str, str]) -> NoReturn:
    """Be ``python -m module arguments`` from now on."""
    os.setsid()
    for number, file in zip((0, 1, 2), (os.open(os.devnull, os.O_RDONLY), *files), strict=True):
        os.dup2(file, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [module, *arguments]
    code: object = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    # What the interpreter does at its end.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1 if code else 0)


if __name__ == "__main__":
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name in IMPORTS:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Collected by nobody, and so not written to: the processes share it.
    gc.freeze()
    with _Server(sys.argv[1], _Request) as server:
        server.serve_forever()
