"""Where files of a sweep are kept: a folder, or an object store through fsspec. A file is there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from orchestrator.errors import StorageUnavailable, UsageError
from orchestrator.files import make_folder, of_home, state_folder, write_file

VARIABLE = "ORCHESTRATE_STORAGE"
SHOWN_STORES = ("s3", "gs")
OBJECT_STORES = (*SHOWN_STORES, "gcs", "az", "abfs", "memory")
"""What fsspec knows of object stores. A grid from elsewhere must not make it fetch anything from anywhere."""
CREDENTIALS = "a URL must not hold credentials: they come from the environment, as the object store's tools read them"
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


class Storage(Protocol):
    """Files by name; names are relative, with ``/`` between folders."""

    url: str
    """Where it is, fit to print: credentials come from the environment, never from here."""

    def write(self, name: str, content: bytes) -> None:
        """Keep ``content``, durably. Raises `StorageUnavailable`; what was there before is then untouched."""

    def read(self, name: str) -> bytes | None:
        """Return what is kept under ``name``; ``None`` if nothing is. Raises `StorageUnavailable`."""

    def names(self, folder: str) -> list[str]:
        """Return the names of all files in ``folder`` and below it, sorted. Raises `StorageUnavailable`."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raises `StorageUnavailable`."""

    def remove_folder(self, folder: str) -> None:
        """Remove a folder with all that is in it, and what is then empty above it. Raises `StorageUnavailable`."""


def open_storage(url: str | None = None) -> Storage:
    """Return the storage at ``url``, or else at ``ORCHESTRATE_STORAGE``, or else in a folder of this user's. Creates nothing.

    Raises `UsageError` for a URL that nothing is known to be behind, or that holds credentials, and `StorageUnavailable` where there is
    something else instead of a folder.
    """
    chosen = url or os.environ.get(VARIABLE) or str(state_folder() / "storage")
    found = _SCHEME.match(chosen)
    if found is None or found[1] == "file":
        path = of_home(chosen.removeprefix("file://"))
        if "\0" in chosen:
            raise UsageError(f"--storage {chosen!r} is not a folder")
        with _failing(f"the storage {path} cannot be used"):
            if path.exists() and not path.is_dir():
                # Perhaps it was one, and will be one again.
                raise StorageUnavailable(f"the storage {path} is not a folder")
        return LocalStorage(path.resolve())
    if "@" in chosen.partition("://")[2].partition("/")[0]:
        raise UsageError(f"--storage: {CREDENTIALS}")
    return ObjectStorage(chosen.rstrip("/"))


def is_object(name: str) -> bool:
    """Return whether a data file's name is a URL, of a bucket say, and not a path."""
    return _SCHEME.match(name) is not None


def read_object(url: str, limit: int) -> bytes:
    """Return an object of up to ``limit`` bytes in one of `OBJECT_STORES`; credentials come from the environment.

    Raises `OSError` if it is not there or too large, `ValueError` for a URL of something else or with credentials in it, and
    `StorageUnavailable` where nobody answers.
    """
    import fsspec

    scheme = url.partition("://")[0].lower()
    if scheme not in OBJECT_STORES:
        raise ValueError(f"{url}: a data file is a path, or a URL that begins with {', '.join(f'{one}://' for one in SHOWN_STORES)}")
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ValueError(f"{scheme}://…: {CREDENTIALS}")
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url}: {error}; `pip install 'orchestrate[s3]'` or `'orchestrate[gcs]'`") from None
    size = 0
    with _failing(f"cannot read {url}"), contextlib.suppress(FileNotFoundError):
        size = files.info(path)["size"]
        if size <= limit:
            return bytes(files.cat_file(path))
    if size:
        raise OSError(errno.EFBIG, f"it is larger than the {limit >> 20:,} MiB allowed")
    raise OSError(errno.ENOENT, "there is no such object")


class LocalStorage:
    """A folder, of this machine or shared by several."""

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, str(root)

    def write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        make_folder(path.parent)
        write_file(path, content, durable=True)

    def read(self, name: str) -> bytes | None:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageUnavailable(f"cannot read {self._path(name)}: {error.strerror}") from error

    def names(self, folder: str) -> list[str]:
        top = self._path(folder)

        def failed(error: OSError) -> None:
            # One that goes meanwhile is a sweep's that is through.
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise StorageUnavailable(f"cannot list {top}: {error.strerror}") from error

        # Files whose names begin with a dot are being written.
        found = [Path(place, name) for place, _, names in os.walk(top, onerror=failed) for name in names if not name.startswith(".")]
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def remove(self, name: str) -> None:
        with _failing(f"cannot remove {self._path(name)}"):
            self._path(name).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        path = self._path(folder)
        with _failing(f"cannot remove {path}"), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
        with contextlib.suppress(OSError):
            while path.parent != self.root:
                path = path.parent
                path.rmdir()
            self.root.rmdir()

    def _path(self, name: str) -> Path:
        parts = Path(name).parts
        assert not Path(name).is_absolute()
        assert ".." not in parts, "names are made here, from ids and file names"
        return self.root.joinpath(*parts)


class ObjectStorage:
    """A bucket, or whatever else fsspec knows. Objects appear whole by nature."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise UsageError(f"--storage {url}: {error}") from None
        except ValueError as error:
            raise UsageError(f"--storage {url}: {error}; give a folder, or a URL such as s3://bucket/folder") from None

    def write(self, name: str, content: bytes) -> None:
        with _failing(f"cannot write {self.url}/{name}"):
            self._files.pipe_file(f"{self._root}/{name}", content)

    def read(self, name: str) -> bytes | None:
        with _failing(f"cannot read {self.url}/{name}"), contextlib.suppress(FileNotFoundError):
            return bytes(self._files.cat_file(f"{self._root}/{name}"))
        return None

    def names(self, folder: str) -> list[str]:
        # What other processes have written since must be seen.
        self._files.invalidate_cache()
        with _failing(f"cannot list {self.url}/{folder}"), contextlib.suppress(FileNotFoundError):
            found = self._files.find(f"{self._root}/{folder}".rstrip("/"))
            return sorted(path.removeprefix(self._root).lstrip("/") for path in found)
        return []

    def remove(self, name: str) -> None:
        with _failing(f"cannot remove {self.url}/{name}"), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")

    def remove_folder(self, folder: str) -> None:
        with _failing(f"cannot remove {self.url}/{folder}"), contextlib.suppress(FileNotFoundError):
            self._files.rm(f"{self._root}/{folder}", recursive=True)


@contextlib.contextmanager
def _failing(what: str) -> Iterator[None]:
    """Turn what file systems raise into `StorageUnavailable`."""
    try:
        yield
    except StorageUnavailable:
        raise
    except Exception as error:  # every object store's client has errors of its own
        reason: Any = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise StorageUnavailable(f"{what}: {reason}") from error
