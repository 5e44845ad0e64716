"""Locks between processes of one machine. The operating system releases them when their holder dies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.errors import TrackingUnavailable
from orchestrator.files import state_folder


@contextmanager
def machine_lock(key: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock named ``key``. ``on_wait`` is called once if another process holds it."""
    path = _file(key)
    folder, lock = path.parent, FileLock(path)
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
    with machine_lock(_experiment(store_uri, experiment), on_wait):
        yield


def _experiment(store_uri: str, experiment: str) -> str:
    return f"experiment\0{store_uri}\0{experiment}"


def _file(key: str) -> Path:
    # A digest: keys hold URIs, which may hold passwords and are no file names.
    return state_folder() / "locks" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.lock"
