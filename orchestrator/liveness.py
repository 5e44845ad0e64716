"""Which process this is, and whether another one is still there, as far as can be told from here."""

from __future__ import annotations

import os
import socket
from pathlib import Path

CLOCK_SECONDS = 5.0
"""By how much the start of a process may seem to move where it is told by a clock that is set."""


def machine() -> str:
    """Return what processes have in common that can see each other: a machine since it was started, and within it a container."""
    return " ".join([socket.gethostname(), _boot(), _namespace()])


def process() -> str:
    """Return this process, told from all that have had or will have its number."""
    return f"{os.getpid()} {_started(os.getpid())}"


def is_there(name: str) -> bool:
    """Return whether a process of this machine, as `process` named it, is there."""
    import psutil

    number, _, started = name.partition(" ")
    try:
        if psutil.Process(int(number)).status() == psutil.STATUS_ZOMBIE:
            return False
        found = _started(int(number))
        return found == started or (not found.startswith("#") and abs(float(found) - float(started)) <= CLOCK_SECONDS)
    except (psutil.Error, ValueError, OSError):
        return False


def _started(number: int) -> str:
    """Return when a process was started: in ticks since the machine was, where the system says so, which no clock that is set can move."""
    import psutil

    try:
        # The 22nd field; the second is a name in brackets that may hold anything.
        return "#" + Path(f"/proc/{number}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return f"{psutil.Process(number).create_time():.0f}"


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
