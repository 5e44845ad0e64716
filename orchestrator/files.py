"""Files: names for them, folders for them, and writing them whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import threading
from contextlib import suppress
from pathlib import Path

from platformdirs import user_state_path

from orchestrator.errors import StorageUnavailable

MAX_NAME = 200
"""Bytes of a name for files and folders."""
FOLDER_TRIES = 5


def read_file(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of up to ``limit`` bytes.

    Raises `OSError` for all else: nobody may ever write to a pipe, and a device may never end.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is a pipe or a device: put what it holds into a file")
            if status.st_size > limit:
                raise OSError(errno.EFBIG, f"it is larger than the {limit >> 20:,} MiB allowed")
            return file.read(status.st_size)
    except ValueError as error:  # a NUL, or half of a surrogate pair
        raise OSError(errno.EINVAL, "no file can have this name") from error


def write_out(content: bytes) -> None:
    """Write to standard output, all of it.

    With ``PYTHONUNBUFFERED``, as most containers have it, Python's own file writes what there is room for in a pipe when a signal comes
    (Ctrl-Z is one), and no more.
    """
    rest = memoryview(content)
    while rest:
        rest = rest[sys.stdout.buffer.write(rest) :]
    sys.stdout.buffer.flush()


def is_file(path: Path) -> bool:
    """Return whether a regular file is seen there: not in a folder that is closed to us, nor by a name that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def of_home(text: str) -> Path:
    """Return the path that is meant, with ``~`` as shells have it: where there is no such user, it stands for itself."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def state_folder() -> Path:
    """Return where this user's locks, and checkpoints of sweeps that are under way, are kept: never beside the user's files."""
    return user_state_path("orchestrate")


def write_file(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file into a folder that exists; with ``durable`` it is whole after a loss of power, too: as it is now, or as it was before.

    Raises `StorageUnavailable` if that cannot be; what was there before is then untouched.
    """
    if not path.name:
        raise StorageUnavailable(f"cannot write {path}: it is a folder")
    try:
        # Of this thread: another may be writing the same file.
        replace_file(path, content, f".{os.getpid()}.{threading.get_native_id()}", durable=durable)
    except OSError as error:
        raise StorageUnavailable(f"cannot write {path}: {error.strerror}") from error


def replace_file(path: Path, content: bytes, writer: str, *, durable: bool) -> None:
    """Write a file as `write_file` does, by way of a hidden one beside it, which its name tells from those of other ``writer``s.

    Raises `OSError` if that cannot be; what was there before is then untouched.
    """
    partial = path.with_name(f".{path.name}{writer}.part")
    try:
        with partial.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def file_name(title: str) -> str:
    """Return a name for files and folders that are about something with a ``title``, an experiment say, which may hold anything."""
    name = re.sub(r"[^\w.-]+", "-", title)
    # File systems count bytes, 255 of them.
    return name.encode()[:MAX_NAME].decode(errors="ignore").strip(".-") or "unnamed"


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises `StorageUnavailable` if that cannot be."""
    for tries in range(1, FOLDER_TRIES + 1):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            # Whoever is through with a folder beside it removes what is then empty above: what this has just made is not there, or
            # what was there is gone when it is looked at.
            if not isinstance(error, FileNotFoundError | FileExistsError) or tries == FOLDER_TRIES:
                raise StorageUnavailable(f"cannot make the folder {path}: {error.strerror}") from error
        else:
            return
