"""Files: names that any file system takes, and reading nothing that is no file."""

from __future__ import annotations

import os

import pytest

from orchestrator.files import file_name, read_file


@pytest.mark.parametrize(
    "title", ["../../etc/passwd", "..", "", "a/b:c", "$(rm -rf x); `y`", "a\0b\n", "表" * 100, "x" * 5000, "." * 300 + "/"]
)
def test_a_title_is_a_name_inside_its_folder(tmp_path, title):
    path = tmp_path / file_name(title)
    path.mkdir()
    assert path.parent == tmp_path
    assert path.resolve() == path
    assert not set(path.name) & set("/\\:$`;\0\n ")


def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_file(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="larger than"):
        read_file(tmp_path / "file", 4)
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "missing", "\0", "/dev/zero", "/dev/null"):
        with pytest.raises(OSError):  # noqa: PT011
            read_file(tmp_path / name, 5)
