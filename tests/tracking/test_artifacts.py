"""Files among the artifacts of a run that are elsewhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from mlflow.entities import FileInfo, Run
from mlflow.utils.file_utils import local_file_uri_to_path

from orchestrator.errors import TrackingUnavailable
from orchestrator.tracking.artifacts import Artifacts
from orchestrator.tracking.store import Store, translated

ROOT = "/api/2.0/mlflow-artifacts/artifacts"


class Refusing(BaseHTTPRequestHandler):
    """An MLflow server that lists one file, and gives out none. ``asked`` says for what it was asked, in order."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        listing = self.path.startswith(f"{ROOT}?")
        self.asked.append("listing" if listing else self.path.rpartition("/")[2])
        content = json.dumps({"files": [{"path": "there.parquet", "is_dir": False, "file_size": 1}]} if listing else {}).encode()
        self.send_response(200 if listing else 403)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def refused(local: Store) -> Iterator[Run]:
    """A run whose artifacts are with such a server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    run = local.client.create_run("0")
    run.info._artifact_uri = f"http://127.0.0.1:{server.server_address[1]}{ROOT}/0/run"
    yield run
    server.shutdown()
    server.server_close()


def test_a_file_that_cannot_be_read_is_not_taken_for_a_missing_one(local: Store, refused: Run) -> None:
    artifacts = local.artifacts(refused)
    assert artifacts.names("results") == ["results/there.parquet"]
    Refusing.asked.clear()
    with pytest.raises(Exception, match="403"):
        artifacts.read("results/there.parquet")
    # No listing before the file, which each that is there would cost a request more.
    assert Refusing.asked == ["there.parquet", "listing"]
    with pytest.raises(Exception, match="403"):
        artifacts.table("results/there.parquet")
    assert artifacts.read("results/missing.parquet") is None
    assert artifacts.table("missing.parquet") is None


def test_files_of_this_machine_are_written_and_read_in_place(local: Store, experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed meanwhile would leave a temporary folder behind."""

    def made(*_: object, **__: object) -> None:
        raise AssertionError("a temporary folder")

    run = local.client.create_run(local.experiment(experiment)).info.run_id
    monkeypatch.setattr("tempfile.mkdtemp", made)
    local.attach(run, {"logs/0001.txt": "one\n", "b.bin": b"\0"})
    assert (local.read(run, "b.bin"), local.texts(run, "logs")) == (b"\0", ["one\n"])
    with pytest.raises(TrackingUnavailable, match=r"cannot be used: there is no logs/0002\.txt among the artifacts of the run"):
        local.read(run, "logs/0002.txt")
    assert local.texts(run, "elsewhere") == []


def test_two_who_attach_the_same_file_at_once_do_not_disturb_each_other(
    local: Store, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a report that a sweep writes at its end, and one that its user asks for."""
    run = local.client.create_run(local.experiment(experiment)).info.run_id
    replace = Path.replace

    def disturbed(part: Path, path: Path) -> Path:
        monkeypatch.undo()
        with ThreadPoolExecutor() as other:
            other.submit(local.attach, run, {"report.html": "another"}).result()
        assert local.read(run, "report.html") == b"another"
        return replace(part, path)

    monkeypatch.setattr(Path, "replace", disturbed)
    local.attach(run, {"report.html": "one"})
    assert local.read(run, "report.html") == b"one"


def test_what_is_written_outlives_a_loss_of_power(local: Store, experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it was made from is removed as soon as it is there."""
    run = local.client.create_run(local.experiment(experiment))
    folder = Path(local_file_uri_to_path(run.info.artifact_uri))
    synced: list[tuple[str, bool]] = []

    def fsync(number: int) -> None:
        path = Path(f"/proc/self/fd/{number}").readlink()
        synced.append((path.name, path.is_dir() or path.stat().st_size == 4))

    monkeypatch.setattr("os.fsync", fsync)
    local.artifacts(run).write({"results/a.parquet": b"rows", "plan.json": b"plan"})
    assert synced[:2] == [(".a.parquet.part", True), (".plan.json.part", True)]
    assert sorted(synced[2:]) == sorted([(folder.name, True), ("results", True)])


def test_the_root_is_listed_as_any_folder(local: Store, experiment: str) -> None:
    run = local.client.create_run(local.experiment(experiment))
    artifacts = local.artifacts(run)
    assert artifacts.names("") == []
    artifacts.write({"plan.json": b"", "results/a.parquet": b""})
    assert artifacts.names("") == ["plan.json", "results"]
    assert artifacts.names("results") == ["results/a.parquet"]


def test_what_was_left_half_written_is_written_over(local: Store, experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = local.client.create_run(local.experiment(experiment))
    folder = Path(local_file_uri_to_path(run.info.artifact_uri))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            local.artifacts(run).write({"plan.json": b"old"})
    assert [path.name for path in folder.iterdir()] == [".plan.json.part"]
    local.artifacts(run).write({"plan.json": b"new"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"plan.json": b"new"}


def test_a_full_disk_leaves_nothing_half_written(local: Store, experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = local.client.create_run(local.experiment(experiment))
    folder = Path(local_file_uri_to_path(run.info.artifact_uri))
    folder.mkdir(parents=True)
    (folder / ".plan.json.part").symlink_to("/dev/full")
    with pytest.raises(TrackingUnavailable, match="No space left on device"), translated(local.display):
        local.artifacts(run).write({"plan.json": b"new"})
    assert list(folder.iterdir()) == []


class Bucket:
    """A repository whose library has errors of its own: those of S3 are no kin of anybody's."""

    def list_artifacts(self, folder: str) -> list[object]:
        if folder == "results":
            return [FileInfo("results/there.parquet", False, 1)]
        raise LookupError("AccessDenied")

    def _download_file(self, path: str, target: str) -> None:
        raise LookupError(f"SlowDown: {path}, {target}")

    def log_artifact(self, path: str, folder: str | None) -> None:
        raise LookupError(f"SlowDown: {path}, {folder}")


def test_what_the_library_of_a_storage_raises_is_a_line(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = local.client.create_run("0")
    run.info._artifact_uri = "s3://bucket/run"
    monkeypatch.setattr(Artifacts, "_repository", Bucket())
    artifacts = local.artifacts(run)
    for call, said in (
        (lambda: artifacts.read("results/there.parquet"), "SlowDown: results/there.parquet"),
        (lambda: artifacts.table("results/there.parquet"), "SlowDown: results/there.parquet"),
        (lambda: artifacts.names("elsewhere"), "AccessDenied"),
        (lambda: artifacts.write({"results/new.parquet": b""}), r"SlowDown: \S+/results/new\.parquet, results"),
    ):
        with pytest.raises(TrackingUnavailable, match=f"cannot be used: LookupError: {said}"), translated(local.display):
            call()
    assert artifacts.read("results/missing.parquet") is None


def test_a_library_that_is_missing_is_a_line(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("No module named 'azure'")

    monkeypatch.setattr("mlflow.store.artifact.artifact_repository_registry.get_artifact_repository", missing)
    run = local.client.create_run("0")
    run.info._artifact_uri = "wasbs://container/run"
    calls = (
        lambda: local.artifacts(run).read("results/there.parquet"),
        lambda: local.artifacts(run).names("results"),
        lambda: local.artifacts(run).write({"new": b""}),
    )
    for call in calls:
        with pytest.raises(TrackingUnavailable, match="cannot be used: ImportError: No module named 'azure'"), translated(local.display):
            call()
