"""Puts files among a run's artifacts, whose root is known: MLflow's client would ask for the run again each time."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from orchestrator.deadline import within
from orchestrator.tracking.bounded import call_seconds


def put_files(artifact_uri: str, files: Mapping[str, bytes], tracking_uri: str) -> None:
    """Write ``files``, by their path among the artifacts at ``artifact_uri``."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    if not files:
        return
    if is_local_uri(artifact_uri):
        _write(Path(local_file_uri_to_path(artifact_uri)), files)
        return
    repository = get_artifact_repository(artifact_uri, tracking_uri=tracking_uri)
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as folder:
        _write(Path(folder), files)
        for name, content in files.items():
            parent = PurePosixPath(name).parent
            place = None if parent == PurePosixPath() else str(parent)
            within(call_seconds(len(content)), repository.log_artifact, str(Path(folder, name)), place)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: whoever finds it reads it.
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(content)
        part.replace(path)
