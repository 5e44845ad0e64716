"""Data files that a grid names: read once, identified by their content, checked against the spec."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import TypeVar

from orchestrator.files import read_file
from orchestrator.grid.source import Mistake, Path
from orchestrator.storage.base import is_object, read_object
from workloads.extensions import Extension
from workloads.kinds import Kind
from workloads.section import FileRef

Part = TypeVar("Part", bound=Kind)

MAX_FILE = 4 << 30
DATA_FILES = (".npz", ".csv")


@dataclass(frozen=True)
class DataFiles:
    """What a grid's data files hold: ``contents`` by SHA-256 digest, and digests by the ``names`` that the grid has for them.

    ``code`` is that of users' own, which no grid brings, but which goes wherever its trials go.
    """

    contents: Mapping[str, bytes] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    code: tuple[Extension, ...] = ()


class Files:
    """The data files of one grid, looked for in ``folder`` or read by ``given``.

    ``contents`` maps SHA-256 digests to bytes, ``names`` the names that the grid has for the files to digests.
    """

    def __init__(self, folder: FilePath, given: Mapping[str, Callable[[], bytes]] | None = None) -> None:
        self.folder = folder
        self.contents: dict[str, bytes] = {}
        self.names: dict[str, str] = {}
        self._given = given or {}

    def attach(self, part: str, section: Part, file: FileRef, where: Mapping[str, Path], mistakes: list[Mistake]) -> Part | None:
        """Read the ``file`` of a section. Returns the section with what the file says, or ``None`` after a mistake."""
        key = f"{part}.{section.data_key}"
        try:
            digest = self.read(file.path)
            read = section.with_data(self.contents[digest], digest)
        except (OSError, ValueError) as error:
            reason = f"cannot read {file.path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            mistakes.append(Mistake(where.get(key, ("fixed",)), key, reason))
            return None
        wrong = [Mistake(where.get(at, where.get(key, ())), at, message) for at, message in read.file_conflicts()]
        mistakes += wrong
        return None if wrong else read

    def read(self, name: str) -> str:
        """Read the file that the grid calls ``name`` and return its digest. Raises `OSError` and `ValueError`."""
        if not name.lower().endswith(DATA_FILES):
            # Before it is opened: a grid from elsewhere may name anything.
            raise ValueError(f"{name}: data files are {' or '.join(DATA_FILES)}")
        if name not in self.names:
            content = self._given[name]() if name in self._given else self._read_anew(name)
            digest = hashlib.sha256(content).hexdigest()
            self.names[name], self.contents[digest] = digest, content
        return self.names[name]

    def _read_anew(self, name: str) -> bytes:
        return read_object(name, MAX_FILE) if is_object(name) else read_file(self.folder / name, MAX_FILE)
