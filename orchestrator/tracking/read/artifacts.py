"""Reads the artifacts of a run: in place where they are files of this machine.

Not by MLflow's client, which asks for the run again and looks for models at each file, and says of all that goes wrong meanwhile that
the file is not there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Sequence
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from orchestrator.deadline import within
from orchestrator.tracking import layout
from orchestrator.tracking.bounded import TRANSFER_SECONDS, call_seconds
from orchestrator.tracking.store import Store, translated

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow.entities import Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository


T = TypeVar("T")


class Artifacts:
    """The artifacts of ``run``. All methods raise `mlflow.exceptions.MlflowException` or `OSError`, whatever library reaches them."""

    def __init__(self, store: Store, run: Run) -> None:
        from mlflow.utils.file_utils import local_file_uri_to_path
        from mlflow.utils.uri import is_local_uri

        self._store, self._uri = store, run.info.artifact_uri
        self._folder = Path(local_file_uri_to_path(self._uri)) if is_local_uri(self._uri) else None

    @cached_property
    def _repository(self) -> ArtifactRepository:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(self._uri, tracking_uri=self._store.uri)

    def names(self, folder: str) -> list[str]:
        """Return the paths of the files in a folder of them, in order."""
        if self._folder is not None:
            found = self._folder / folder
            names = [path.name for path in found.iterdir() if not path.name.startswith(".")] if found.is_dir() else []
            return sorted(f"{folder}/{name}" for name in names)
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


def _asked(seconds: float, call: Callable[[], T]) -> T:
    """Return what a call to a repository returns. The library of each kind of storage, which may be missing, has errors of its own."""
    from mlflow.exceptions import MlflowException

    try:
        return within(seconds, call)
    except (MlflowException, OSError):
        raise
    except Exception as error:
        raise MlflowException(f"{type(error).__name__}: {error}") from error


def code_reader(store: Store, run_id: str) -> Callable[[str], bytes | None]:
    """Return what reads a file of the users' code that is among the artifacts of a sweep, by its name; ``None`` for one that is not."""
    with translated(store.display):
        artifacts = Artifacts(store, store.client.get_run(run_id))

    def read(name: str) -> bytes | None:
        with translated(store.display):
            return artifacts.read(f"{layout.CODE_FOLDER}/{name}")

    return read


def data_digests(store: Store, run_id: str) -> dict[str, str] | None:
    """Return the digests of a grid's data files by their names there, where its sweep lists them; ``None`` where it does not."""
    with translated(store.display):
        listed = Artifacts(store, store.client.get_run(run_id)).read(layout.DATA_DIGESTS)
    return None if listed is None else json.loads(listed)


def data_files(store: Store, run_id: str) -> dict[str, Callable[[], bytes]]:
    """Return the data files of a grid that are among the artifacts of its sweep, each by the name that the grid has for it.

    There are some of a sweep that came from a file. One that is missing raises `ValueError` when it is read.
    """
    with translated(store.display):
        artifacts = Artifacts(store, store.client.get_run(run_id))
        names = artifacts.read(layout.DATA_NAMES)

    def read(name: str, digest: str) -> bytes:
        with translated(store.display):
            content = artifacts.read(f"{layout.DATA_FOLDER}/{digest}")
        if content is None:
            raise ValueError(f"{name} is not among the sweep's artifacts any more")
        return content

    known: dict[str, str] = {} if names is None else json.loads(names)
    return {name: partial(read, name, digest) for name, digest in known.items()}
