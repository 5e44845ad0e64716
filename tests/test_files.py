"""Files: names that any file system takes, reading nothing that is no file, and writing all that there is."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import subprocess
import sys
import termios
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import StorageUnavailable
from orchestrator.files import file_name, is_file, make_folder, of_home, read_file, write_file
from tests.processes import PATIENCE, eventually, popen


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


def test_what_no_file_can_be_called_is_none(tmp_path):
    (tmp_path / "file").touch()
    assert [is_file(tmp_path / name) for name in ("file", ".", "missing", "x" * 300)] == [True, False, False, False]
    for folder in (".", "/"):
        with pytest.raises(StorageUnavailable, match="it is a folder"):
            write_file(Path(folder), b"x")


def test_a_home_is_that_of_a_user_who_is_there(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert [str(of_home(text)) for text in ("~/x", "~nobody-called-so/x", "x")] == ["/home/me/x", "~nobody-called-so/x", "x"]


def test_a_folder_that_goes_while_one_is_made_in_it_is_made_again(tmp_path, monkeypatch):
    made, mkdir = [], os.mkdir

    def made_and_removed(path, mode):
        mkdir(path, mode)
        made.append(path)
        if len(made) == 1:
            # By a sweep that has just come to its end.
            Path(path).rmdir()

    monkeypatch.setattr(os, "mkdir", made_and_removed)
    make_folder(tmp_path / "root" / "x")
    assert (tmp_path / "root" / "x").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(StorageUnavailable, match="cannot make the folder"):
        make_folder(tmp_path / "file" / "x")


def test_two_threads_that_write_one_file_leave_it_whole(tmp_path, monkeypatch):
    both, replace = threading.Barrier(2, timeout=PATIENCE), Path.replace

    def at_once(partial, path):
        both.wait()
        return replace(partial, path)

    monkeypatch.setattr(Path, "replace", at_once)
    contents = [b"x" * 1000, b"y" * 2000]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda content: write_file(tmp_path / "file", content), contents))
    assert (tmp_path / "file").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


WRITING = "from orchestrator.files import write_out; write_out(bytes(10**6))"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_all_is_written_into_a_pipe_by_who_was_suspended(unbuffered):
    command, environment = [sys.executable, "-c", WRITING], {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pipe, there = process.stdout.fileno(), array.array("i", [0])

        def full():
            fcntl.ioctl(pipe, termios.FIONREAD, there)
            return there[0] == fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)

        eventually(full)
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=PATIENCE) == ("\0" * 10**6, None)
    assert process.returncode == 0
