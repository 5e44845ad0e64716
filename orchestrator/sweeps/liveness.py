"""Return whether the process of a sweep is still there, as far as can be told from here."""

from __future__ import annotations

import os
import socket
from pathlib import Path

CLOCK_SECONDS = 5.0
"""By how much the start of a process may seem to move when the clock is set."""


def machine() -> str:
    """Return what processes have in common that can see each other: a machine since it was started, and within it a container."""
    return " ".join([socket.gethostname(), _boot(), _namespace()])


def process() -> str:
    """Return this process, told from all that have had or will have its number."""
    import psutil

    return f"{os.getpid()} {psutil.Process().create_time():.0f}"


def is_there(name: str) -> bool:
    """Return whether a process of this machine, as `process` named it, is there."""
    import psutil

    number, _, started = name.partition(" ")
    try:
        found = psutil.Process(int(number))
        return found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - float(started)) <= CLOCK_SECONDS
    except (psutil.Error, ValueError):
        return False


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return "-"


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "-"
