"""The artifacts of a run, whose root is known: read and written in place where they are files of this machine.

Not by MLflow's client, which asks for the run again and looks for models at each file, and says of all that goes wrong meanwhile that
the file is not there.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from orchestrator.deadline import within
from orchestrator.files import replace_file
from orchestrator.tracking.bounded import TRANSFER_SECONDS, call_seconds

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow.store.artifact.artifact_repo import ArtifactRepository


T = TypeVar("T")


class Artifacts:
    """What is at ``root``, an artifact URI of the store at ``tracking_uri``.

    All methods raise `mlflow.exceptions.MlflowException` or `OSError`, whatever library reaches them.
    """

    def __init__(self, root: str, tracking_uri: str) -> None:
        from mlflow.utils.file_utils import local_file_uri_to_path
        from mlflow.utils.uri import is_local_uri

        self._root, self._tracking_uri = root, tracking_uri
        self._folder = Path(local_file_uri_to_path(root)) if is_local_uri(root) else None

    @cached_property
    def _repository(self) -> ArtifactRepository:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(self._root, tracking_uri=self._tracking_uri)

    def names(self, folder: str) -> list[str]:
        """Return the paths of the files and folders in a folder of them, or, of ``""``, at their root, in order."""
        if self._folder is not None:
            found = self._folder / folder
            names = [path.name for path in found.iterdir() if not path.name.startswith(".")] if found.is_dir() else []
            return sorted(str(PurePosixPath(folder, name)) for name in names)
        return sorted(file.path for file in _asked(call_seconds(), lambda: self._repository.list_artifacts(folder)))

    def read(self, path: str) -> bytes | None:
        """Return a file; ``None`` if it is not there."""
        if self._folder is not None:
            found = self._folder / path
            return found.read_bytes() if found.is_file() else None
        try:
            with tempfile.TemporaryDirectory(prefix="orchestrate-") as folder:
                # What every kind of repository implements. What is made of it for users, `download_artifacts`, first asks for a listing, in
                # case it is a folder: a request more for each file.
                _asked(TRANSFER_SECONDS, lambda: self._repository._download_file(path, f"{folder}/file"))
                return Path(folder, "file").read_bytes()
        except Exception:
            # Each kind of repository has an error of its own for what is not there.
            parent = PurePosixPath(path).parent
            if path in self.names("" if parent == PurePosixPath() else str(parent)):
                raise
            return None

    def table(self, path: str, columns: Sequence[str] | None = None, trials: Collection[str] | None = None) -> pa.Table | None:
        """Return a table of trials, or those of its ``columns`` that it has, and its rows of some ``trials``; ``None`` if it is not there.

        Of a file on this machine nothing else is read. A file that is damaged counts as none: whoever wrote it did not come to its end.
        """
        import pyarrow as pa
        from pyarrow import parquet

        source: Path | pa.BufferReader
        if self._folder is not None:
            source = self._folder / path
            if not source.is_file():
                return None
        else:
            content = self.read(path)
            if content is None:
                return None
            source = pa.BufferReader(content)
        try:
            with parquet.ParquetFile(source) as file:
                there = file.schema_arrow.names
                table = file.read(None if columns is None else [name for name in there if name in columns])
        except pa.ArrowInvalid:
            return None
        place = table.schema.get_field_index("trial_id")
        table = table.set_column(place, "trial_id", table["trial_id"].cast(pa.string()))
        return table if trials is None else table.filter(pa.compute.is_in(table["trial_id"], pa.array(list(trials), pa.string())))

    def write(self, files: Mapping[str, bytes], *, alone: bool = True) -> None:
        """Write ``files``, by their paths: whole or not at all, since whoever finds one reads it.

        Files of this machine outlive a loss of power: what they were made from is removed once they are there.
        What a process that was killed has left of a file is written over by the next, if nobody else may be writing it meanwhile: if we
        are ``alone``.
        """
        if not files:
            return
        if self._folder is not None:
            _write(self._folder, files, "" if alone else f".{os.getpid()}.{threading.get_native_id()}", durable=True)
            for written in {self._folder, *(Path(self._folder, name).parent for name in files)}:
                _sync(written)
            return
        with tempfile.TemporaryDirectory(prefix="orchestrate-") as folder:
            _write(Path(folder), files, "", durable=False)
            for name, content in files.items():
                parent = PurePosixPath(name).parent
                place = None if parent == PurePosixPath() else str(parent)
                _asked(call_seconds(len(content)), lambda: self._repository.log_artifact(str(Path(folder, name)), place))  # noqa: B023


def _asked(seconds: float, call: Callable[[], T]) -> T:
    """Return what a call to a repository returns. The library of each kind of storage, which may be missing, has errors of its own."""
    from mlflow.exceptions import MlflowException

    try:
        return within(seconds, call)
    except (MlflowException, OSError):
        raise
    except Exception as error:
        raise MlflowException(f"{type(error).__name__}: {error}") from error


def put_files(root: str, files: Mapping[str, bytes], tracking_uri: str) -> None:
    """Write ``files``, by their paths among the artifacts at ``root``, which nobody else does meanwhile."""
    Artifacts(root, tracking_uri).write(files)


def _write(folder: Path, files: Mapping[str, bytes], writer: str, *, durable: bool) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content, writer, durable=durable)


def _sync(folder: Path) -> None:
    """Let the names in a folder outlive a loss of power, where its file system can do that."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
