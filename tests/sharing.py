"""Clusters and servers that all processes of a run of the tests share: started by the first that asks, ended at the end of the run.

``python -m tests.sharing KIND [FILE]`` is such a process: it says in one line of JSON what there is to know, and waits for SIGTERM.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from tests import processes

ROOT = Path(__file__).parents[1]


def shared(kind: str, *arguments: str) -> Any:
    """What the run's process of a ``kind`` says of itself. Starts it if nobody has."""
    folder = _folder()
    folder.mkdir(exist_ok=True)
    said, log = folder / f"{kind}.json", folder / f"{kind}.log"
    with FileLock(folder / f"{kind}.lock"):
        if not (folder / f"{kind}.pid").exists():
            command = [sys.executable, "-m", "tests.sharing", kind, *arguments]
            environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PYTEST_"))}
            with said.open("w") as out, log.open("w") as errors:
                process = processes.popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=errors)
            (folder / f"{kind}.pid").write_text(str(process.pid))
            processes.eventually(lambda: said.read_text().endswith("\n") or process.poll() is not None, log.read_text)
    assert said.read_text().endswith("\n"), log.read_text()
    return json.loads(said.read_text())


def made_template() -> Path:
    """An empty MLflow database, to be copied: making one takes seconds. Makes it if nobody has."""
    from orchestrator.tracking.store import open_store

    path = _folder() / "template" / "mlflow.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(_folder() / "template.lock"):
        if not path.exists():
            open_store(f"sqlite:///{path}")
    return path


def made_schema(uri: str) -> str:
    """The ``uri`` of a database, with MLflow's tables in it. Makes them if nobody has: a server that starts meanwhile would fail."""
    from orchestrator.tracking.store import open_store

    made = _folder() / "schema"
    with FileLock(_folder() / "schema.lock"):
        if not made.exists():
            open_store(uri)
            made.touch()
    return uri


def end_shared() -> None:
    """End what is shared: first, all at once, what nothing else needs."""
    pids = {path.stem: int(path.read_text()) for path in _folder().glob("*.pid")}
    for last in (False, True):
        ending = []
        for kind in pids:
            with suppress(psutil.Error):
                if (kind in NEEDED) == last:
                    ending.append(psutil.Process(pids[kind]))
                    ending[-1].terminate()
        psutil.wait_procs(ending, processes.PATIENCE)
    shutil.rmtree(_folder(), ignore_errors=True)


def _folder() -> Path:
    return Path(os.environ["TMPDIR"], "_shared")


WARM = 3
"""Workers that wait for sweeps on the cluster: about as many as processes of the tests start some at the same time."""


@contextmanager
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of one node with many cores."""
    from tests.clusters import SOON, local_cluster

    # Ray would start a process for each of the cores, which nobody needs.
    with local_cluster(nodes=1, cpus=16 + WARM, settings={**SOON, "prestart_worker_first_driver": False}) as started:
        yield started.gcs_address


@contextmanager
def warm(address: str) -> Iterator[str]:
    """The address of a Ray cluster, on which workers are kept warm from now on as on one that `orchestrate up` keeps.

    One that starts takes a core for some 3 s to import PyTorch. How sweeps start their own is for tests with a Ray of theirs.
    """
    from orchestrator.cluster.connection import Cluster
    from orchestrator.cluster.keeper import ROUND_SECONDS, Keeper
    from orchestrator.cluster.sizing import Allotment

    with Cluster.connect(address) as joined:
        keeper, over = Keeper(joined, {Allotment(1.0, 0.0): WARM}), threading.Event()

        def keep() -> None:
            while not over.wait(ROUND_SECONDS):
                keeper.look()

        keeper.look()
        keeping = threading.Thread(target=keep)
        keeping.start()
        try:
            yield address
        finally:
            over.set()
            keeping.join()


@contextmanager
def server(template: str) -> Iterator[dict[str, Any]]:
    """An MLflow server on SQLite, which begins with a copy of the database ``template``."""
    from tests.servers import mlflow_server

    with tempfile.TemporaryDirectory(prefix="mlflow-") as folder:
        shutil.copy(template, Path(folder, "mlflow.db"))
        with mlflow_server(Path(folder), f"sqlite:///{folder}/mlflow.db") as started:
            yield asdict(started)


@contextmanager
def database() -> Iterator[str]:
    """The URI of a database on PostgreSQL, empty at first."""
    from tests.servers import postgresql

    with postgresql() as uri:
        yield uri


@contextmanager
def secured(uri: str) -> Iterator[dict[str, Any]]:
    """An MLflow server on the database ``uri`` that lets nobody in without a password."""
    from tests.servers import mlflow_server

    with tempfile.TemporaryDirectory(prefix="mlflow-") as folder, mlflow_server(Path(folder), uri, password=True) as started:
        yield asdict(started)


NEEDED = {"cluster", "database"}
"""Kinds that others are told of when they start."""
KINDS = {"cluster": cluster, "warm": warm, "server": server, "database": database, "secured": secured}

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with KINDS[sys.argv[1]](*sys.argv[2:]) as found:
        print(json.dumps(found), flush=True)
        while True:
            signal.pause()
