"""Temporary folders that go with their process: at its end, or, if it was killed, as soon as anybody makes another one."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "orchestrate-"
LOCK = "lock"
"""The file in a folder that its owner holds locked. The operating system lets go of it when the owner dies."""
LAST_SECONDS = 5.0
"""How long processes may take to end that write into a folder which is to go."""
SOCKET_BYTES = 107 - len("/orchestrate-12345678/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store_1")
"""How long the path of a folder may be in which Ray makes its sockets: the kernel takes names of 107 bytes."""


@contextmanager
def scratch_folder(base: Path | None = None) -> Iterator[Path]:
    """Make a folder in ``base``, by default the system's for temporary files, and remove it in the end.

    Removes also the folders in ``base`` whose owners were killed. Raises `OSError` if no folder can be made.
    """
    base = base or Path(tempfile.gettempdir())
    remove_abandoned(base)
    # Under another name until it is locked: whoever looks for abandoned folders must not find it before.
    made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=base))
    lock = FileLock(made / LOCK)
    lock.acquire()
    folder = made.rename(base / made.name.removeprefix("."))
    try:
        yield folder
    finally:
        _remove(folder)
        lock.release()


def _remove(folder: Path) -> None:
    """Remove a folder, in which processes that are just ending may be writing yet."""
    until = time.monotonic() + LAST_SECONDS
    while folder.exists() and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05 if folder.exists() else 0)


def remove_abandoned(base: Path) -> None:
    """Remove the folders in ``base`` whose owners are gone."""
    for path in base.glob(f"{PREFIX}*/{LOCK}"):
        # Another user's cannot be opened; another process may be removing it, too.
        with suppress(Timeout, OSError), FileLock(path, timeout=0):
            shutil.rmtree(path.parent, ignore_errors=True)


def socket_base() -> Path | None:
    """Return where to make a folder for Ray: `None` for the usual place for temporary files, unless its path is too long for sockets."""
    return Path("/tmp") if len(os.fsencode(tempfile.gettempdir())) > SOCKET_BYTES else None  # noqa: S108
