"""A run of the tests leaves nothing behind: no process, Ray session, mount, network namespace or temporary file."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests import processes

KEPT = "pytest-of-"
"""The folder of pytest's own temporary files begins like this."""
OWN = "_"
"""And the folders of what the processes of pytest make themselves, rather than those that they start."""
CACHE = "cache"
"""The user's cache, for a run of the tests."""
MARKED = re.compile(r"/tmp/(ot|chaos)-|raytest-")
"""What tests mount, and their network namespaces, have this in their names, with the mark of their run."""
NAMESPACES = ("/run/netns", "/var/run/netns")
"""The first network namespace since the machine was started leaves this folder mounted."""
UNTIL_THE_END = ("wp_pch_", "torchinductor_")
"""Folders of Warp's and PyTorch's compilers, which stay as long as their process."""


class Run:
    """A run of the tests, with a folder of its own for all temporary files, so that those of others are not taken for its own."""

    def __init__(self) -> None:
        self.mark = secrets.token_hex(3)
        # Short: the path of a socket, which Ray makes deep in here, has 107 characters at most. Open: PostgreSQL has another user.
        # A run that a test starts leaves nothing beside the run of that test.
        self.folder = Path(os.environ["TMPDIR"] if processes.own_mark() else "/tmp", f"ot-{self.mark}")
        self.folder.mkdir()
        self.folder.chmod(0o711)  # Whatever the umask.
        os.environ[processes.MARK] = self.mark
        os.environ["TMPDIR"] = os.environ["PYTEST_DEBUG_TEMPROOT"] = str(self.folder)
        # How fast the machine was while tests ran is nothing for its user to keep. Compiled kernels are as good as any.
        kernels = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "warp")
        os.environ.setdefault("WARP_CACHE_PATH", str(kernels))
        os.environ["XDG_CACHE_HOME"] = str(self.folder / CACHE)
        self._before = set(_mounts()) | set(_namespaces())

    def left(self, seconds: float) -> list[str]:
        """What the run has left behind, ``seconds`` after its end at the latest; empty if nothing. Processes are ended."""
        until = time.monotonic() + seconds
        while (found := self._seen()) and time.monotonic() < until:
            time.sleep(0.2)
        processes.end(list(processes.marked(self.mark)))
        return found

    def remove(self, failed: bool) -> None:
        """Remove the temporary files; if a test has ``failed``, what pytest keeps of it stays, to be looked at."""
        for path in self.folder.iterdir():
            if not (failed and path.name.startswith(KEPT)):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _seen(self) -> list[str]:
        try:
            return self._left()
        except FileNotFoundError as error:
            # A folder has gone while it was looked into.
            return [f"what is removing {error.filename}"]

    def _left(self) -> list[str]:
        found = [f"process {line}" for line in _lines(self.mark)]
        found += [line for line in sorted({*_mounts(), *_namespaces()} - self._before) if not of_others(line, self.mark)]
        for path in (path for pattern in ("*", f"{OWN}*/*") for path in self.folder.glob(pattern)):
            sessions = list(path.glob("**/session_2*"))
            # Ray notes in a folder of its own which cluster of the machine is the newest.
            passing = (
                path.name.startswith((OWN, KEPT))
                or path.name in ("ray", CACHE)
                or (path.parent != self.folder and path.name.startswith(UNTIL_THE_END))
            )
            if sessions or not passing:
                found.append(f"{'Ray session' if sessions else 'temporary file'} {path}")
        return found


def of_others(line: str, mark: str) -> bool:
    """Whether a mount or a network namespace is of another run of the tests than that of a ``mark``, one that goes on beside it, say."""
    return mark not in line and MARKED.search(line) is not None


def use_own_folder(name: str) -> None:
    """Let this process make its temporary files in a folder of its own within the run's."""
    folder = Path(os.environ["TMPDIR"], OWN + name)
    folder.mkdir()
    tempfile.tempdir = str(folder)


def _lines(mark: str) -> list[str]:
    found = []
    for process in processes.marked(mark):
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid}: {' '.join(process.cmdline())[:150] or process.name()}")
    return found


def _mounts() -> list[str]:
    try:
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return []
    return [f"mount {path}" for path in mounted if path not in NAMESPACES]


def _namespaces() -> list[str]:
    if shutil.which("ip") is None:
        return []
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    return [f"network namespace {line.split()[0]}" for line in listed.splitlines() if line]
