"""Files: names for them, folders for them, and writing them whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path

from orchestrator.errors import StorageUnavailable


def write_file(path: Path, content: bytes) -> None:
    """Write a file into a folder that exists. Raises `StorageUnavailable` if that cannot be; what was there before is then untouched."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageUnavailable(f"cannot write {path}: {error.strerror}") from error


def file_name(title: str) -> str:
    """A name for files and folders that are about something with a ``title``, an experiment say, which may hold anything."""
    return re.sub(r"[^\w.-]+", "-", title).strip(".-") or "unnamed"


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises `StorageUnavailable` if that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageUnavailable(f"cannot make the folder {path}: {error.strerror}") from error
