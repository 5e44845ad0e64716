"""A process that has its imports done, and from which programs are forked: ``python -m orchestrator.cli.server SOCKET MODULE…``.

MLflow takes seconds to import, which is most of what a command takes. A program that is forked has the environment, folder, terminal,
signals and exit status of whoever asked for it, and ends with them. The server ends when its standard input does.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import socketserver
import struct
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

INHERITED = ("PYTHON", "LD_", "MALLOC_", "GLIBC_")
"""What the variables begin with that a process reads when it starts."""
LIMITS = sorted(name for name in vars(resource) if name.startswith("RLIMIT_"))
IGNORABLE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
BEGIN = b"\0"
"""What whoever asked says once they wait for the program: else it does not begin."""
REFUSED = 0
"""Told instead of a process's number."""
NUMBER = struct.Struct("!q")


@dataclass(frozen=True)
class Order:
    """A program to run: an ``entry``, a module or ``module:function``, with ``arguments``, and all that its process is to have.

    ``circumstances`` are those of whoever asks, and have to be the server's.
    """

    entry: str
    arguments: list[str]
    cwd: str
    env: dict[str, str]
    umask: int = 0o22
    ignored: list[int] = field(default_factory=list)
    circumstances: dict[str, Any] | None = None

    def send(self, connection: socket.socket, files: Sequence[int]) -> None:
        """Send it, with standard input, output and error."""
        content = json.dumps(asdict(self)).encode()
        socket.send_fds(connection, [b"\0"], files)
        connection.sendall(NUMBER.pack(len(content)) + content)

    @classmethod
    def received(cls, connection: socket.socket) -> tuple[Order, list[int]]:
        """Return what was sent. Raises `EOFError` where whoever asked is gone."""
        first, files, _, _ = socket.recv_fds(connection, 1, 3)
        if not first:
            raise EOFError
        return cls(**json.loads(_exactly(connection, NUMBER.unpack(_exactly(connection, NUMBER.size))[0]))), files


def _exactly(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        piece = connection.recv(count - len(content))
        if not piece:
            raise EOFError
        content += piece
    return content


def told(connection: socket.socket) -> int | None:
    """Return the number that the server tells next: a process, then its exit status; ``None`` if it is gone."""
    try:
        return int(NUMBER.unpack(_exactly(connection, NUMBER.size))[0])
    except (EOFError, OSError):
        return None


def circumstances() -> dict[str, Any]:
    """Return what a process has from the one that started it, and cannot be given later."""
    found: dict[str, Any] = {"user": [os.getuid(), os.getgid(), *sorted(os.getgroups())], "nice": os.nice(0)}
    found["limits"] = [list(resource.getrlimit(getattr(resource, name))) for name in LIMITS]
    found["environment"] = {name: value for name, value in sorted(os.environ.items()) if name.startswith(INHERITED)}
    if hasattr(os, "sched_getaffinity"):
        found["cores"] = sorted(os.sched_getaffinity(0))
    with suppress(OSError):
        found["cgroup"] = Path("/proc/self/cgroup").read_text()
        found["spaces"] = sorted(f"{path.name} {path.readlink()}" for path in Path("/proc/self/ns").iterdir())
    return found


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Forks a process for each program, which forks the program and waits for it."""

    request_queue_size = 100
    max_children = 1000
    block_on_close = False

    def server_bind(self) -> None:
        # Whoever finds the socket can connect: between being bound and listening it refuses.
        self._found, self.server_address = str(self.server_address), f"{self.server_address}.part"
        # Nobody else's to connect to.
        before = os.umask(0o177)
        try:
            super().server_bind()
        finally:
            os.umask(before)

    def server_activate(self) -> None:
        super().server_activate()
        Path(str(self.server_address)).rename(self._found)

    def service_actions(self) -> None:
        super().service_actions()
        if select.select([0], [], [], 0)[0] and not os.read(0, 1):
            sys.exit()


class _Request(socketserver.BaseRequestHandler):
    request: socket.socket

    def handle(self) -> None:
        os.setpgid(0, 0)
        with suppress(EOFError, OSError):
            order, files = Order.received(self.request)
            if order.circumstances not in (None, circumstances()):
                self.request.sendall(NUMBER.pack(REFUSED))
                return
            self._run(order, files)

    def _run(self, order: Order, files: Sequence[int]) -> None:
        begin, begun = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(begun)
            # Whoever asked may have given up, and do it themselves.
            if not os.read(begin, 1):
                os._exit(0)
            self.request.close()
            _become(order, files)
        for descriptor in (begin, *files):
            os.close(descriptor)
        self.request.sendall(NUMBER.pack(pid))
        over = threading.Event()
        if self.request.recv(1):
            os.write(begun, BEGIN)
            threading.Thread(target=self._end_with_client, args=(pid, over), daemon=True).start()
        os.close(begun)
        status = os.waitpid(pid, 0)[1]
        # From here on its number may be another's.
        over.set()
        self.request.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))

    def _end_with_client(self, pid: int, over: threading.Event) -> None:
        with suppress(OSError):
            if not self.request.recv(1) and not over.is_set():
                os.kill(pid, signal.SIGKILL)


def _become(order: Order, files: Sequence[int]) -> NoReturn:
    """Be the program from now on."""
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(order.cwd)
    os.umask(order.umask)
    os.environ.clear()
    os.environ.update(order.env)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in order.ignored:
        signal.signal(number, signal.SIG_IGN)
    module, _, function = order.entry.partition(":")
    code: object = 1
    try:
        if function:
            sys.argv = [function, *order.arguments]
            getattr(importlib.import_module(module), function)()
        else:
            sys.argv = [module, *order.arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    _leave(code)


def _leave(code: object) -> NoReturn:
    """End the process as the interpreter does."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)  # noqa: T201, as for any exit
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code or 0)


def main() -> None:
    """Import what the arguments name, and serve at the socket that the first one does."""
    # MLflow tells its makers what it is used for from where it is imported on.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name in sys.argv[2:]:
        importlib.import_module(name)
    # Collected by nobody, and so not written to: the processes share it.
    gc.freeze()
    with _Server(sys.argv[1], _Request) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
