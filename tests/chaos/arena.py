"""Where a sweep is disturbed: a folder with a grid and an MLflow store and, for some kinds, a server, a cluster, disks of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.chaos.server import Server
from tests.chaos.sweep import Size
from tests.processes import MARK, marked, popen

ROOT = Path(__file__).parents[2]
CLOCK = Path(__file__).parent / "set_clock"
"""On the path of Python, it lets its clock be set."""
DISK = 192 << 20
"""Bytes of a disk that can be filled."""
NODES = 3


@dataclass(frozen=True)
class Kind:
    """What a sweep runs on, besides this machine.

    Its MLflow is a file or a ``server``, perhaps one with a ``proxy`` that has its troubles, or one whose database is ``restored`` from old
    copies. Its Ray is embedded or a ``cluster``. Its storage is on the disk of everything else, which may be ``small``, or on a ``separate``
    one. Its ``clock`` may be set.
    """

    name: str
    server: bool = False
    proxy: bool = False
    restored: bool = False
    cluster: bool = False
    small: bool = False
    separate: bool = False
    clock: bool = False


KINDS = (
    Kind("embedded, SQLite"),
    Kind("embedded, server", server=True),
    Kind("cluster, SQLite", cluster=True),
    Kind("cluster, server", server=True, cluster=True),
    Kind("small disk", small=True),
    Kind("proxy", server=True, proxy=True),
    Kind("clock", clock=True),
    Kind("restored server", server=True, restored=True),
    Kind("separate storage", separate=True),
)
"""A schedule's kind is that of its seed, modulo their number."""


class Arena:
    """A folder in which a sweep runs; everything in it can be killed."""

    def __init__(self, folder: Path, size: Size, kind: Kind = KINDS[0], database: Path | None = None) -> None:
        self.folder, self.size, self.kind = folder, size, kind
        self.mark = f"{os.environ.get(MARK, 'chaos')}/{uuid.uuid4().hex}"
        # Logs are beside the disk: they are to say what happens when it is full.
        self.disk = folder / "disk"
        self.mounts: list[Path] = []
        if kind.small:
            self._mount(self.disk)
        if kind.separate:
            self._mount(self.storage)
        self.work.mkdir(parents=True)
        if database is not None:
            shutil.copy(database, self.work / "mlflow.db")
        # Beside the disk, too, and short: Ray makes its sockets in it.
        self.temporary = Path(tempfile.mkdtemp(prefix="ca"))
        (self.work / "grid.yaml").write_text(size.grid())
        np.savez(self.work / "singular.npz", W1=np.ones((4, 4)), W2=np.ones((4, 4)))
        self.environment = self._environment()
        self.driver: subprocess.Popen[str] | None = None
        self.cluster: Any = None
        self.server = Server(self.work, folder / "server.log", self.environment, proxied=kind.proxy) if kind.server else None
        if kind.cluster:
            self._start_cluster()

    @property
    def work(self) -> Path:
        """Where the sweep is started, with its grid and its MLflow."""
        return self.disk / "work"

    @property
    def storage(self) -> Path:
        """Where checkpoints are, and what MLflow does not have yet."""
        return self.disk / "state" / "orchestrate" / "storage"

    @property
    def clock(self) -> Path:
        """The file that says by how much the clock is wrong."""
        return self.temporary / "clock"

    @property
    def store(self) -> str:
        """The tracking URI."""
        return self.server.uri if self.server is not None else f"sqlite:///{self.work}/mlflow.db"

    @property
    def log(self) -> str:
        """What all drivers have said."""
        path = self.folder / "driver.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, command: str, *options: str) -> None:
        """Begin, or go on with, the sweep."""
        arguments = [sys.executable, "-m", "orchestrator.cli.main", command]
        arguments += ["grid.yaml"] if command == "submit" else ["chaos"]
        arguments += ["--tracking-uri", self.store, "--checkpoint-every", "1", "--patience", "20", *options]
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = popen(arguments, cwd=self.work, env=self.environment, stdout=log, stderr=log)

    def set_clock(self, seconds: float) -> None:
        """Let the clock of all processes be wrong by so much from now on."""
        self.clock.touch()
        with self.clock.open("r+b") as file:
            # In its place: they have it in their memory.
            file.write(struct.pack("d", seconds))

    def add_node(self) -> None:
        """Add a node to the cluster."""
        with pytest.MonkeyPatch.context() as patch:
            for name in (MARK, "TMPDIR"):
                patch.setenv(name, self.environment[name])
            options = {"num_cpus": 1, "object_store_memory": 80 << 20, "temp_dir": str(self.temporary)}
            self.cluster.add_node(include_log_monitor=False, no_monitor=True, include_dashboard=False, **options)

    def workers(self) -> list[psutil.Process]:
        """Return the processes that train."""
        return self.processes("RemoteWorker")

    def processes(self, part: str = "") -> list[psutil.Process]:
        """Return all processes that this arena has brought about, and that are still there, with ``part`` in their command lines."""
        found = []
        for process in marked(self.mark):
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and part in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints of packs."""
        return list(self.storage.glob("**/checkpoints/*.safetensors"))

    def close(self) -> None:
        """End and remove all of it."""
        if self.cluster is not None:
            self.cluster.shutdown()
        if self.server is not None:
            self.server.close()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self.mounts:
            time.sleep(0.5)
        for path in self.mounts:
            unmount(path)
        shutil.rmtree(self.temporary, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _mount(self, path: Path) -> None:
        """Give a folder a disk of its own, where that is allowed."""
        path.mkdir(parents=True)
        if os.geteuid() == 0:
            command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(path)]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                self.mounts.append(path)

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "PYTEST_"))}
        kept |= {
            MARK: self.mark,
            "TMPDIR": str(self.temporary),
            "XDG_STATE_HOME": str(self.disk / "state"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            # Else workers would have to wait for whatever else runs.
            "RAY_worker_niceness": "0",
        }
        if self.kind.clock:
            self.set_clock(0.0)
            kept |= {"ORCHESTRATE_TEST_CLOCK": str(self.clock), "PYTHONPATH": f"{CLOCK}{os.pathsep}{ROOT}"}
        return kept

    def _start_cluster(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster()
        # Where Ray notes which cluster of the machine is the newest: it takes the folder to be there.
        (self.temporary / "ray").mkdir()
        for _ in range(NODES):
            self.add_node()
        self.environment["RAY_ADDRESS"] = self.cluster.address


def unmount(path: Path) -> None:
    """Let a folder be one of the disk around it again."""
    subprocess.run(["umount", "-l", str(path)], check=False)
