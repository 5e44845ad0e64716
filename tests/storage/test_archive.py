"""Archives: what was written is read, and what was not is an error before anything comes of it."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest

from orchestrator.errors import StorageUnavailable, UsageError
from orchestrator.storage import archive as module
from orchestrator.storage.archive import Archive, writing

FILES = {"grid.yaml": b"name: x\n", "traces/000000.parquet": bytes(range(256)) * 40, "runs/a/factors.safetensors": b""}


def written(path: Path, files: dict[str, bytes] = FILES) -> Path:
    with writing(path) as archive:
        for name, content in files.items():
            archive.add(name, content)
        archive.finish({"sweep": "abc"})
    return path


def rewritten(path: Path, change: dict[str, bytes | None], *, twice: str = "") -> Path:
    """The same archive with some members changed, added or, if ``None``, left out."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()} | change
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            if content is not None:
                new.writestr(name, content)
        if twice:
            new.writestr(twice, members[twice])
    return path


def manifest(path: Path, **change: object) -> bytes:
    with zipfile.ZipFile(path) as old:
        return json.dumps(json.loads(old.read("manifest.json")) | change).encode()


def test_what_was_written_is_read_and_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    path = written(tmp_path / "x.zip")
    with Archive(path) as archive:
        assert archive.about == {"sweep": "abc"}
        assert {name: archive.read(name) for name in archive.names} == FILES
        archive.check()
    assert written(tmp_path / "y.zip").read_bytes() == path.read_bytes()
    assert sorted(found.name for found in tmp_path.iterdir()) == ["x.zip", "y.zip"]


def test_a_file_that_is_not_completed_is_not_there(tmp_path: Path) -> None:
    def interrupted() -> None:
        with writing(tmp_path / "x.zip") as archive:
            archive.add("grid.yaml", b"")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageUnavailable, match=r"cannot write .*No such file"), writing(tmp_path / "no" / "x.zip"):
        pass


@pytest.mark.parametrize(
    "name", ["../grid.yaml", "/etc/passwd", "traces/../../x", "traces/.hidden", "traces//x", "c:\\x", "a\nb", "", "x" * 300, "runs/a/"]
)
def test_no_file_has_a_name_that_leads_elsewhere(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "x.zip", {**FILES, name: b"boo"})
    with pytest.raises(UsageError, match=r"x\.zip is damaged: no file of a sweep is called|its files are not those"):
        Archive(path)


def test_what_does_not_match_its_digest_is_an_error(tmp_path: Path) -> None:
    path = rewritten(written(tmp_path / "x.zip"), {"grid.yaml": b"name: y\n"})
    with Archive(path) as archive, pytest.raises(UsageError, match=r"damaged: grid\.yaml is not what was written"):
        archive.check()
    # A byte on its way that was turned.
    content = bytearray(written(path).read_bytes())
    content[content.index(b"\x10\x11\x12\x13")] ^= 1
    path.write_bytes(content)
    with Archive(path) as archive, pytest.raises(UsageError, match="damaged: Bad CRC-32"):
        archive.check()


def test_what_is_not_in_the_manifest_is_an_error(tmp_path: Path) -> None:
    for change in ({"more": b""}, {"grid.yaml": None}, {"grid.yaml": b"longer than it was"}):
        path = rewritten(written(tmp_path / "x.zip"), change)
        with pytest.raises(UsageError, match="damaged: its files are not those of its manifest"):
            Archive(path)
    with pytest.warns(UserWarning, match="Duplicate"):
        path = rewritten(written(tmp_path / "x.zip"), {}, twice="grid.yaml")
    with pytest.raises(UsageError, match="damaged: its files are not those"):
        Archive(path)


def test_sizes_are_bounded_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("manifest.json", b"")
        bomb.writestr("bomb", bytes(1 << 20))
    for name, most in (("MAX_FILES", 1), ("MAX_FILE", 1 << 19), ("MAX_BYTES", 1 << 19), ("MAX_MANIFEST", -1)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, most)
            with pytest.raises(UsageError, match="larger than any sweep"):
                Archive(path)


def _tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../x"))
    return content.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"PK\x05\x06", b"x" * 100, pickle.dumps({}), _tar()], ids=["empty", "cut", "text", "pickle", "tar"]
)
def test_a_file_of_another_kind_is_said_to_be(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is no file of `orchestrate export`"):
        Archive(path)


def test_other_formats_and_versions_are_named(tmp_path: Path) -> None:
    for change, message in (
        ({"format": "other"}, "of the format 'other'"),
        ({"version": 2}, "of version 2, and this program reads version 1"),
    ):
        path = written(tmp_path / "x.zip")
        with pytest.raises(UsageError, match=message):
            Archive(rewritten(path, {"manifest.json": manifest(path, **change)}))
    for content in (
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"format": "orchestrate-sweep", "version": 1, "files": {"grid.yaml": 3}, "about": 1}',
        b"\xff",
    ):
        with pytest.raises(UsageError, match=r"x.zip is damaged"):
            Archive(rewritten(written(tmp_path / "x.zip"), {"manifest.json": content}))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as other:
        other.writestr("a.txt", "")
    with pytest.raises(UsageError, match=r"it has no manifest\.json"):
        Archive(tmp_path / "x.zip")


@pytest.mark.parametrize("files", [[], "grid.yaml", 3, None, {"grid.yaml": []}])
def test_a_manifest_with_something_else_than_files_is_damaged(tmp_path: Path, files: object) -> None:
    path = written(tmp_path / "x.zip")
    rewritten(path, {"manifest.json": manifest(path, files=files)})
    with pytest.raises(UsageError, match=r"x\.zip is damaged: "):
        Archive(path)


@pytest.mark.parametrize("kind", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_only_what_is_stored_or_deflated_is_read(tmp_path: Path, kind: int) -> None:
    path = written(tmp_path / "x.zip")
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", kind) as new:
        for name, content in members.items():
            new.writestr(name, content)
    with pytest.raises(UsageError, match="damaged: it is compressed in another way"):
        Archive(path)
