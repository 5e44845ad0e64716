"""A file that holds files, to be given to others: a zip with a manifest, which says how large each of them is and what its digest is.

What comes from elsewhere is read safely: nothing is unpickled or written to disk under a name of its choice, sizes are bounded before
anything is read, and what does not match its digest is an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orchestrator.errors import StorageUnavailable, UsageError, one_line
from orchestrator.files import MAX_NAME

FORMAT = "orchestrate-sweep"
VERSION = 1
"""Raised whenever a program of the version before could not read the file rightly."""
MANIFEST = "manifest.json"
MAX_FILES = 500_000
MAX_MANIFEST = 256 << 20
MAX_FILE = 4 << 30
MAX_BYTES = 256 << 30
"""Most that may be in an archive: files, and bytes of the manifest, of a file, and of all files."""
_PART = re.compile(r"\w[\w.+-]*")
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The same content is to give the same bytes."""
_DENSE = (".parquet", ".png", ".pdf")
"""Endings of files that are compressed already."""
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, KeyError, TypeError, RecursionError)
"""What reading a file raises that is no archive, or not the one that was written."""


class ArchiveWriter:
    """An archive that is being written."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._files: dict[str, dict[str, Any]] = {}

    def add(self, name: str, content: bytes) -> None:
        """Add a file; names are relative, with ``/`` between folders."""
        assert name not in self._files, name
        self._files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        self._put(name, content)

    def finish(self, about: Mapping[str, Any]) -> None:
        """Add the manifest, with what the files are ``about``."""
        manifest = {"format": FORMAT, "version": VERSION, "about": about, "files": self._files}
        self._put(MANIFEST, json.dumps(manifest, indent=1).encode())

    def _put(self, name: str, content: bytes) -> None:
        info = zipfile.ZipInfo(name, _EPOCH)
        info.compress_type = zipfile.ZIP_STORED if name.endswith(_DENSE) else zipfile.ZIP_DEFLATED
        info.external_attr = 0o644 << 16
        self._archive.writestr(info, content)


@contextmanager
def writing(path: Path) -> Iterator[ArchiveWriter]:
    """Provide an archive at ``path``, which appears there when it is complete. Raises `StorageUnavailable` if it cannot be written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with zipfile.ZipFile(partial, "w") as archive:
                yield ArchiveWriter(archive)
            partial.replace(path)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise StorageUnavailable(f"cannot write {path}: {error.strerror or error}") from error


class Archive:
    """An archive to be read. Used as a context manager. Raises `UsageError`, here and in its methods, for a file that is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
        except _DAMAGED as error:
            raise UsageError(f"{path} is no file of `orchestrate export`") from error
        try:
            with self._reading():
                self.about, self._files = self._manifest()
        except BaseException:
            self._archive.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._archive.close()

    @property
    def names(self) -> list[str]:
        """The names of the files, in order."""
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        """Return a file of `names`."""
        with self._reading():
            content = self._content(name, int(self._files[name]["bytes"]))
            if hashlib.sha256(content).hexdigest() != self._files[name]["sha256"]:
                raise ValueError(f"{name} is not what was written")
            return content

    def check(self) -> None:
        """See that every file is what was written."""
        for name in self.names:
            self.read(name)

    def _manifest(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        there = self._archive.infolist()
        sizes = {info.filename: info.file_size for info in there}
        if MANIFEST not in sizes:
            raise UsageError(f"{self.path} is no file of `orchestrate export`: it has no {MANIFEST}")
        if len(there) > MAX_FILES or max(sizes.values()) > MAX_FILE or sum(sizes.values()) > MAX_BYTES or sizes[MANIFEST] > MAX_MANIFEST:
            raise UsageError(f"{self.path} is larger than any sweep: it is not read")
        if any(info.compress_type not in _COMPRESSIONS for info in there):
            raise ValueError("it is compressed in another way than by deflation")
        manifest = json.loads(self._content(MANIFEST, sizes.pop(MANIFEST)))
        if manifest["format"] != FORMAT:
            raise UsageError(f"{self.path} is no file of `orchestrate export`: it is of the format {manifest['format']!r}")
        if manifest["version"] != VERSION:
            raise UsageError(f"{self.path} is of version {manifest['version']}, and this program reads version {VERSION}")
        files: dict[str, dict[str, Any]] = dict(manifest["files"])
        if len(there) != len(sizes) + 1 or sizes != {name: file["bytes"] for name, file in files.items()}:
            raise ValueError("its files are not those of its manifest")
        if wrong := [name for name in files if not _is_safe(name)]:
            raise ValueError(f"no file of a sweep is called {wrong[0]!r}")
        return dict(manifest["about"]), files

    def _content(self, name: str, size: int) -> bytes:
        with self._archive.open(name) as file:
            content = file.read(size)
        if len(content) != size:
            raise ValueError(f"{name} ends early")
        return content

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read: {error.strerror}") from error
        except _DAMAGED as error:
            raise UsageError(f"{self.path} is damaged: {one_line(str(error))}") from error


def _is_safe(name: str) -> bool:
    """Return whether a name leads nowhere but into folders below the one in which it is."""
    return len(name) < MAX_NAME and all(_PART.fullmatch(part) for part in name.split("/"))
