"""One contract for every kind of storage."""

from __future__ import annotations

import errno
import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.errors import StorageUnavailable, UsageError
from orchestrator.files import make_folder, write_file
from orchestrator.storage.base import LocalStorage, ObjectStorage, open_storage
from orchestrator.storage.checkpoints import Checkpoints
from orchestrator.storage.folder import Description, SweepFolder, folders


@pytest.fixture(params=["folder", "object store"])
def storage(request, tmp_path):
    # fsspec's store in memory has the semantics of a bucket: no folders, and objects that appear whole.
    return open_storage(str(tmp_path / "deep" / "root") if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


def test_what_is_written_is_read(storage):
    assert storage.read("a/b/c") is None
    storage.write("a/b/c", b"one")
    storage.write("a/b/c", b"two")
    storage.write("a/b/empty", b"")
    assert (storage.read("a/b/c"), storage.read("a/b/empty")) == (b"two", b"")


def test_names_are_those_below_a_folder(storage):
    assert storage.names("a") == storage.names("") == []
    for name in ("a/z", "a/b/c", "ab/c"):
        storage.write(name, b"x")
    assert storage.names("a") == ["a/b/c", "a/z"]
    assert storage.names("") == ["a/b/c", "a/z", "ab/c"]


def test_what_is_removed_is_gone_and_nothing_else(storage):
    for name in ("a/1", "a/2", "b/1"):
        storage.write(name, b"x")
    storage.remove("a/1")
    storage.remove("a/1")
    assert storage.names("") == ["a/2", "b/1"]
    storage.remove_folder("a")
    storage.remove_folder("a")
    assert storage.names("") == ["b/1"]


def test_a_folder_that_has_become_empty_goes_with_what_was_in_it(tmp_path):
    storage = LocalStorage(tmp_path / "root")
    storage.write("experiment/sweep/file", b"x")
    storage.remove_folder("experiment/sweep")
    assert not (tmp_path / "root").exists()


def test_folders_that_come_and_go_beside_it_are_no_trouble(tmp_path):
    storage, until = LocalStorage(tmp_path / "root"), time.monotonic() + 1.0

    def use(name):
        while time.monotonic() < until:
            make_folder(tmp_path / "root" / name / "a")
            storage.remove_folder(f"{name}/a")

    def look():
        while time.monotonic() < until:
            assert storage.names("") == []

    with ThreadPoolExecutor() as threads:
        for one in [*(threads.submit(use, name) for name in "xyz"), threads.submit(look)]:
            one.result()


def test_a_folder_that_is_removed_between_the_making_and_a_look_is_made_again(tmp_path, monkeypatch):
    folder, made = tmp_path / "root" / "a", []
    make = os.mkdir

    def faster(path, mode=0o777):
        made.append(path)
        if len(made) == 1:
            # Another had made it, and has removed it since.
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        make(path, mode)

    monkeypatch.setattr(os, "mkdir", faster)
    make_folder(folder)
    assert folder.is_dir()


def test_a_file_where_a_folder_is_to_be_is_said(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(StorageUnavailable, match=f"cannot make the folder {tmp_path}/a: File exists"):
        make_folder(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"x"


def test_a_file_that_is_being_written_is_not_there(tmp_path):
    storage = LocalStorage(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".half.1234.part").write_bytes(b"x")
    assert storage.names("a") == []


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path):
    """/dev/full is a disk that is always full."""
    storage = LocalStorage(tmp_path)
    storage.write("a", b"before")
    (tmp_path / f".a.{os.getpid()}.{threading.get_native_id()}.part").symlink_to("/dev/full")
    with pytest.raises(StorageUnavailable, match=r"cannot write .*/a: No space left on device"):
        storage.write("a", b"after")
    assert storage.read("a") == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_names_never_lead_out_of_the_storage(tmp_path):
    storage = LocalStorage(tmp_path / "root")
    for name in ("../x", "a/../../x", "/etc/passwd"):
        with pytest.raises(AssertionError):
            storage.write(name, b"x")


@pytest.mark.parametrize("experiment", ["../../etc", "a/b", "..", "x; rm -rf ~", "$(touch x)", "\n", "ü" * 300])
def test_experiments_of_any_name_have_a_folder_inside(tmp_path, experiment):
    storage = LocalStorage(tmp_path / "root")
    folder = SweepFolder(storage, experiment, "12345678")
    folder.describe(Description("12345678", experiment, "", "", "", {}), {"d1": b"data"})
    (path,) = {path.parent for path in (tmp_path / "root").rglob("sweep.json")}
    assert path.parent.parent == tmp_path / "root"
    ((found, description),) = folders(storage, experiment)
    assert (description.experiment, found.data_file("d1")) == (experiment, b"data")
    assert list(folders(storage, "another")) == []


def test_what_is_no_folder_of_a_sweep_is_not_removed(storage):
    storage.write("documents/taxes/2026.txt", b"x")
    SweepFolder(storage, "documents", "taxes").remove()
    assert storage.names("") == ["documents/taxes/2026.txt"]
    folder = SweepFolder(storage, "documents", "12345678")
    folder.describe(Description("12345678", "documents", "", "", "", {}), {"d1": b"data"})
    folder.remove()
    assert storage.names("") == ["documents/taxes/2026.txt"]


def test_where_the_storage_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("ORCHESTRATE_STORAGE", raising=False)
    assert open_storage().url == str(tmp_path / "state" / "orchestrate" / "storage")
    monkeypatch.setenv("ORCHESTRATE_STORAGE", "memory://bucket/folder/")
    assert open_storage().url == "memory://bucket/folder"
    assert open_storage(f"file://{tmp_path}/here").url == str(tmp_path / "here")
    assert not (tmp_path / "state").exists(), "looking creates nothing"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://key:secret@bucket/x", "must not hold credentials"),
        ("gopher://bucket/x", "gopher"),
        ("a\0b", "is not a folder"),
    ],
)
def test_what_is_no_storage_is_refused(url, message):
    with pytest.raises(UsageError, match=message):
        open_storage(url)


def test_what_is_in_the_place_of_a_storage_is_no_mistake_of_the_command_line(monkeypatch, tmp_path):
    (tmp_path / "storage").touch()
    monkeypatch.setenv("ORCHESTRATE_STORAGE", str(tmp_path / "storage"))
    with pytest.raises(StorageUnavailable, match="storage is not a folder"):
        open_storage()
    with pytest.raises(StorageUnavailable, match="cannot be used: File name too long"):
        open_storage("x" * 300)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Access Denied"), "Access Denied"),
        (FileNotFoundError("The specified bucket does not exist"), "The specified bucket does not exist"),
        (RuntimeError("first\nsecond"), "first"),
    ],
)
def test_errors_of_an_object_store_are_one_line(monkeypatch, error, said):
    storage = ObjectStorage("memory://bucket")

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(storage._files, "pipe_file", refuse)
    with pytest.raises(StorageUnavailable, match=rf"^cannot write memory://bucket/a: {said}$"):
        storage.write("a", b"x")


def test_checkpoints_of_trials_that_are_finished_are_forgotten(storage):
    checkpoints = Checkpoints(storage, "x/y", "r")
    storage.write("x/y/checkpoints/damaged.safetensors", b"not one")
    assert checkpoints.remove_finished(lambda _: True) == 0
    assert storage.names("x/y") == []


def test_write_file_is_whole_or_not(tmp_path):
    write_file(tmp_path / "a", b"one", durable=True)
    with pytest.raises(StorageUnavailable, match="cannot write"):
        write_file(tmp_path / "missing" / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"
