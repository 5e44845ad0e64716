"""Locks between processes of one machine, or of one file system. The operating system releases them when their holder dies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.errors import BusyError, TrackingUnavailable
from orchestrator.files import state_folder

HERE = "this machine"
"""Where the holder of a file's lock is, for all that is known: on a file system that several machines share, it may be another one."""


@contextmanager
def machine_lock(key: str) -> Iterator[None]:
    """Hold the lock named ``key`` among the processes of this user of this machine."""
    with _file_lock(state_folder() / "locks" / _name(key), lambda _: None, patient=True):
        yield


@contextmanager
def lock_beside(path: Path, key: str, on_wait: Callable[[str], None], *, patient: bool) -> Iterator[None]:
    """Hold the lock named ``key`` among the processes that use the file at ``path``, whoever's they are.

    ``on_wait`` is told once if another process holds it; unless ``patient``, `BusyError` says so.
    """
    with _file_lock(path.with_name(f".{path.name}.locks") / _name(key), on_wait, patient=patient):
        yield


@contextmanager
def _file_lock(path: Path, on_wait: Callable[[str], None], *, patient: bool) -> Iterator[None]:
    try:
        lock = FileLock(path, mode=_make(path.parent))
        lock.acquire(timeout=0)
    except Timeout:
        if not patient:
            raise BusyError(HERE) from None
        on_wait(HERE)
        lock.acquire()
    except OSError as error:
        place = path.parent.parent
        raise TrackingUnavailable(
            f"cannot write locks in {path.parent} ({error.strerror}): make {place} a folder that you can write"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _make(folder: Path) -> int:
    """Make a folder for locks, for all who may write to the one that it lies in. Return what its files' mode is to be."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    mode = folder.parent.stat().st_mode & 0o777
    with suppress(FileExistsError):
        folder.mkdir()
        # Whatever the umask says: it is as open as what it lies in, and no more.
        folder.chmod(mode)
    return mode & 0o666


def _name(key: str) -> str:
    # A digest: keys hold URIs, which may hold passwords and are no file names.
    return f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.lock"
