"""The MLflow server of an arena: killed, put behind a proxy, and put back to what its database once was."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

from orchestrator.cluster.slurm.node import free_port
from tests.chaos.proxy import Proxy
from tests.processes import popen
from tests.servers import SERVER_ENVIRONMENT, await_port, mlflow_command


class Server:
    """An MLflow server on the SQLite file in a folder ``work``. Its log is elsewhere: it is to say what happens when a disk is full."""

    def __init__(self, work: Path, log: Path, environment: Mapping[str, str], *, proxied: bool = False) -> None:
        self._work, self._log, self._environment = work, log, {**environment, **SERVER_ENVIRONMENT}
        self._port = free_port()
        self.proxy = Proxy(self._port) if proxied else None
        self._copy: Path | None = None
        self.process: subprocess.Popen[str]
        self.start()
        self.wait()

    @property
    def uri(self) -> str:
        """Its address, or that of the proxy before it."""
        return f"http://127.0.0.1:{self.proxy.port if self.proxy else self._port}"

    def start(self) -> None:
        """Begin, and do not wait until somebody listens."""
        command = mlflow_command("127.0.0.1", self._port, f"sqlite:///{self._database}", self._work / "artifacts")
        with self._log.open("ab") as log:
            self.process = popen(command, cwd=self._work, env=self._environment, stdout=log, stderr=log)

    def wait(self) -> None:
        """Wait until somebody listens."""
        await_port(self._port, self.process, self._log)

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def keep(self) -> bool:
        """Keep a copy of the database as it is now. Returns whether there was none already."""
        if self._copy is not None:
            return False
        self._copy = self._database.with_name("kept.db")
        with closing(sqlite3.connect(self._database)) as source, closing(sqlite3.connect(self._copy)) as target:
            source.backup(target)
        return True

    def writes_a_sweep(self) -> bool:
        """Return whether there is a sweep in the database that has not ended."""
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(self._database)) as database:
            return bool(database.execute("SELECT 1 FROM runs WHERE name LIKE 'sweep-%' AND status = 'RUNNING'").fetchall())
        return False

    def put_back(self, empty: bool) -> None:
        """Let the database be as it was when it was kept, or not be there at all. The server must not run."""
        assert self._copy is not None
        for path in self._work.glob("mlflow.db*"):
            path.unlink()
        if not empty:
            self._copy.rename(self._database)
        self._copy.unlink(missing_ok=True)
        self._copy = None

    def close(self) -> None:
        """End the proxy; whoever started the server ends it."""
        if self.proxy is not None:
            self.proxy.close()

    @property
    def _database(self) -> Path:
        return self._work / "mlflow.db"
