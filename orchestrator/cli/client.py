"""Commands on a machine where `orchestrate up` keeps a cluster: run by a process that is forked from one that has all imports done."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from orchestrator.errors import UnavailableError

HEAVY = ("submit", "resume", "runs", "history", "factors", "figures", "verify", "compare", "status", "list", "cancel", "logs", "sync")
"""The commands that import what takes seconds."""
IMPORTS = (
    "alembic.command",
    "mlflow.store.artifact.local_artifact_repo",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking",
    "orchestrator.analysis.report",
    "orchestrator.cli.commands.submit",
    "orchestrator.sweeps.submit",
    "pyarrow.parquet",
    "ray",
    "safetensors.numpy",
)
"""What they import."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
ENTRY = "orchestrator.cli.main:forked"
"""What is run in the process that is forked."""
ANSWER_SECONDS = 5.0
"""How long the server may take to fork."""

_here = False


def run_here() -> None:
    """Have commands of this process run in it: it is such a process itself."""
    global _here
    _here = True


def delegated(arguments: Sequence[str]) -> int | None:
    """Have a command run by a process forked for it. Returns its exit status, negative for a signal; ``None`` to run it here."""
    if _here or not arguments or arguments[0] not in HEAVY:
        return None
    from orchestrator.cluster.kept import kept, record

    if not record().exists():
        return None
    there = kept()
    if there is None or not there.commands or not there.fits:
        return None
    from orchestrator.cli.server import BEGIN, IGNORABLE, REFUSED, Order, circumstances, told

    before = os.umask(0)
    os.umask(before)
    ignored = [int(number) for number in IGNORABLE if signal.getsignal(number) is signal.SIG_IGN]
    order = Order(ENTRY, [*arguments], str(Path.cwd()), dict(os.environ), before, ignored, circumstances())
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(there.commands)
            order.send(connection, (0, 1, 2))
        except OSError:
            return None
        pid = told(connection)
        if pid is None or pid == REFUSED:
            return None
        _forward(pid)
        connection.settimeout(None)
        try:
            connection.sendall(BEGIN)
        except OSError:
            # It has not heard that it may begin.
            return None
        status = told(connection)
    if status is None:
        # It may go on without anybody who waits for it. Run once more here, it would be there twice.
        gone = f"what waits for process {pid}, which runs this command, has ended"
        click.echo(f"error: {gone}; `orchestrate list` says what becomes of a sweep", err=True)
        return UnavailableError.exit_code
    return status


def _forward(pid: int) -> None:
    """Let a process hear what this one does."""

    def hear(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def stop(_: int, frame: FrameType | None) -> None:
        # Both: it has no terminal that would stop it.
        hear(signal.SIGSTOP, frame)
        os.kill(os.getpid(), signal.SIGSTOP)

    for number in FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, hear)
    signal.signal(signal.SIGTSTP, stop)


def end_like(status: int) -> NoReturn:
    """End this process as another has ended."""
    if status < 0:
        with suppress(OSError, ValueError):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
        status = 128 - status
    os._exit(status)
