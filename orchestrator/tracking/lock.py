"""Locks between processes of one machine. The operating system releases them when their holder dies."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.errors import TrackingUnavailable


def state_folder() -> Path:
    """Where this user's locks are kept: never beside the user's files."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "orchestrate" / "locks"


@contextmanager
def machine_lock(key: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock named ``key``. ``on_wait`` is called once if another process holds it."""
    folder = state_folder()
    # A digest: keys hold URIs, which may hold passwords and are no file names.
    lock = FileLock(folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        if on_wait is not None:
            on_wait()
        lock.acquire()
    except OSError as error:
        raise TrackingUnavailable(
            f"cannot write locks in {folder} ({error.strerror}): point XDG_STATE_HOME at a folder you can write"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def experiment_lock(store_uri: str, experiment: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Let the processes of this machine that submit to one experiment of one store take turns."""
    with machine_lock(f"experiment\0{store_uri}\0{experiment}", on_wait):
        yield
