"""Sweeps under fire: a seeded schedule of kills against a real sweep, and the comparison with an undisturbed one."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from orchestrator.cli.options import INTERRUPTED
from orchestrator.errors import OrchestratorError
from tests.processes import PATIENCE, eventually, popen
from tests.servers import SERVER_ENVIRONMENT, await_port, free_port, mlflow_command

ROOT = Path(__file__).parents[2]
GRID = """
name: chaos
fixed:
  stop: {loss: 1e-9, steps: 1}
cases:
  - problem: {kind: matrix_completion, shape: [6, 6], target: {rank: 1, frobenius: 4}, observed: 20}
    factorization: {kind: deep_matrix, depth: 3}
    init: {kind: gaussian, scale: 0.1}
    optimizer: {kind: gd, lr: 1e-5}
    stop.steps: 2000000
  - problem: {kind: matrix_completion, shape: [6, 6], target: {rank: 2, frobenius: 4}, observed: 20}
    factorization: {kind: deep_matrix, depth: 2}
    init: {kind: gaussian, scale: 0.1}
    optimizer: {kind: adam, lr: 1e-6}
    stop.steps: 1000000
  - problem: {kind: tensor_completion, shape: [4, 4, 4], target: {rank: 1, frobenius: 2}, observed: 30}
    factorization: {kind: cp, components: 6}
    loss: mse
    init: {kind: gaussian, scale: 0.2}
    optimizer: {kind: group_rmsprop, lr: 1e-6}
    stop.steps: 150000
  - problem: {kind: matrix_completion, shape: [5, 5], target: {rank: 1, frobenius: 4}, observed: 15}
    factorization: {kind: deep_matrix, depth: 2}
    init: {kind: gaussian, scale: 0.3}
    optimizer: {kind: momentum, lr: 1e-2}
    stop.steps: 100000
  - problem: {kind: matrix_completion, shape: [6, 6], target: {rank: 1, frobenius: 4}, observed: 20}
    factorization: {kind: deep_matrix, depth: 2}
    init: {kind: gaussian, scale: 0.3}
    optimizer: {kind: gd, lr: 1e3}
    stop.steps: 1000
  - problem: {kind: matrix_completion, shape: [4, 4], target: {rank: 1, frobenius: 2}, observed: 10}
    factorization: {kind: deep_matrix, depth: 2}
    init: {kind: file, file: singular.npz, det_sign: positive}
    optimizer: {kind: gd, lr: 1e-3}
    stop.steps: 1000
seeds: 40
record: {points: 30, measures: [error, nuclear, effective_rank, cp_rank, components]}
"""
FAILING = 1 / 6
"""The share of trials that fail, whatever happens: the determinant of their start is zero."""
DISK = 192 << 20


@dataclass(frozen=True)
class Size:
    """How much there is to disturb: trials of each of the six cases, and how many times as many steps the long ones take."""

    seeds: int = 40
    longer: int = 1

    def grid(self) -> str:
        """The grid file."""
        text = GRID.replace("seeds: 40", f"seeds: {self.seeds}")
        return re.sub(r"(?<=steps: )\d{6,}", lambda match: str(int(match[0]) * self.longer), text)


@dataclass
class Report:
    """What a schedule did, and what it found wrong."""

    seed: int
    kind: str
    kills: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


class Arena:
    """A folder with a grid, an MLflow store and, for some, a server and a cluster; everything in it can be killed."""

    def __init__(
        self,
        folder: Path,
        size: Size,
        *,
        server: bool = False,
        nodes: int = 0,
        small_disk: bool = False,
        database: Path | None = None,
    ) -> None:
        self.folder, self.size, self.nodes = folder, size, nodes
        self.mark = uuid.uuid4().hex
        self.mounted = False
        # Logs are beside the disk: they are to say what happens when it is full.
        self.disk = folder / "disk"
        self.disk.mkdir(parents=True)
        if small_disk and os.geteuid() == 0:
            command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self.disk)]
            self.mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        self.work = self.disk / "work"
        self.work.mkdir()
        if database is not None:
            shutil.copy(database, self.work / "mlflow.db")
        # Beside the disk, too, and short: Ray makes its sockets in it.
        self.temporary = Path(tempfile.mkdtemp(prefix="ca"))
        (self.work / "grid.yaml").write_text(size.grid())
        np.savez(self.work / "singular.npz", W1=np.ones((4, 4)), W2=np.ones((4, 4)))
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "PYTEST_"))}
        self.environment |= {
            "CHAOS_MARK": self.mark,
            "TMPDIR": str(self.temporary),
            "XDG_STATE_HOME": str(self.disk / "state"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            # Else workers would have to wait for whatever else runs.
            "RAY_worker_niceness": "0",
        }
        self.driver: subprocess.Popen[str] | None = None
        self.cluster: Any = None
        self.server: subprocess.Popen[str] | None = None
        self.port = 0
        if server:
            self.port = free_port()
            self.start_server()
            await_port(self.port)
        if nodes:
            self.start_cluster()

    @property
    def store(self) -> str:
        """The tracking URI."""
        return f"http://127.0.0.1:{self.port}" if self.port else f"sqlite:///{self.work}/mlflow.db"

    def start_server(self) -> None:
        command = mlflow_command("127.0.0.1", self.port, f"sqlite:///{self.work}/mlflow.db", self.work / "artifacts")
        with (self.folder / "server.log").open("ab") as log:
            environment = self.environment | SERVER_ENVIRONMENT
            self.server = popen(command, cwd=self.work, env=environment, stdout=log, stderr=log)

    def start_cluster(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster()
        # Where Ray notes which cluster of the machine is the newest: it takes the folder to be there.
        (self.temporary / "ray").mkdir()
        for _ in range(self.nodes):
            self.add_node()
        self.environment["RAY_ADDRESS"] = self.cluster.address

    def add_node(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("CHAOS_MARK", "TMPDIR"):
                patch.setenv(name, self.environment[name])
            options = {"num_cpus": 1, "object_store_memory": 80 << 20, "temp_dir": str(self.temporary)}
            self.cluster.add_node(include_log_monitor=False, no_monitor=True, include_dashboard=False, **options)

    def start(self, command: str, *options: str) -> None:
        """Begin, or go on with, the sweep."""
        arguments = [sys.executable, "-m", "orchestrator.cli.main", command]
        arguments += ["grid.yaml"] if command == "submit" else ["chaos"]
        arguments += ["--tracking-uri", self.store, "--checkpoint-every", "1", "--patience", "20", *options]
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = popen(arguments, cwd=self.work, env=self.environment, stdout=log, stderr=log)

    def workers(self) -> list[psutil.Process]:
        """The processes that train."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if "RemoteWorker" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def checkpoints(self) -> list[Path]:
        """The checkpoints of packs."""
        return list((self.disk / "state").glob("**/checkpoints/*.safetensors"))

    def processes(self) -> Iterator[psutil.Process]:
        """All processes that this arena has brought about, and that are still there."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and process.environ().get("CHAOS_MARK") == self.mark:
                    yield process

    def close(self) -> None:
        """End and remove all of it."""
        if self.cluster is not None:
            self.cluster.shutdown()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self.mounted:
            time.sleep(0.5)
            subprocess.run(["umount", "-l", str(self.disk)], check=False)
        shutil.rmtree(self.temporary, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def run_schedule(
    seed: int, folder: Path, expected: tuple[pd.DataFrame, pd.DataFrame], size: Size, kills: int, database: Path | None = None
) -> Report:
    """One sweep, ``kills`` times disturbed, compared with an undisturbed one. MLflow begins with a copy of ``database``, if there is one."""
    rng = random.Random(seed)
    kind = ("embedded, SQLite", "embedded, server", "cluster, SQLite", "cluster, server", "embedded, small disk")[seed % 5]
    report = Report(seed, kind)
    began = time.monotonic()
    arena = Arena(folder, size, server="server" in kind, nodes=3 if "cluster" in kind else 0, small_disk="small" in kind, database=database)
    try:
        _disturb(arena, rng, kills, report)
        _finish(arena, report)
        report.violations += [*_compared(arena, expected), *remains(arena)]
        report.log += (arena.folder / "driver.log").read_text(errors="replace").splitlines() if report.violations else []
    finally:
        arena.close()
    report.seconds = time.monotonic() - began
    return report


def _compared(arena: Arena, expected: tuple[pd.DataFrame, pd.DataFrame]) -> list[str]:
    try:
        return [*differences(arena, expected)]
    except OrchestratorError as error:
        return [f"the sweep cannot be read: {error}"]


def _disturb(arena: Arena, rng: random.Random, kills: int, report: Report) -> None:
    actions: dict[str, tuple[float, Callable[[], bool]]] = {
        "worker": (5, lambda: _kill_worker(arena, rng)),
        "driver": (2, lambda: _kill_driver(arena, signal.SIGKILL)),
        "interrupt": (1, lambda: _kill_driver(arena, rng.choice([signal.SIGINT, signal.SIGTERM]))),
    }
    if arena.server is not None:
        actions["server"] = (2, lambda: _kill_server(arena, rng))
    if arena.nodes:
        actions["node"] = (2, lambda: _kill_node(arena, rng))
    if arena.mounted:
        actions["disk"] = (2, lambda: _fill_disk(arena, rng))
    arena.start("submit")
    _await_phase(arena, rng)
    deadline = time.monotonic() + 15 * kills + 60
    while report.kills.total() < kills and time.monotonic() < deadline:
        assert arena.driver is not None
        if arena.driver.poll() is not None:
            if arena.driver.returncode in (0, 1):
                return
            arena.start(_how_to_go_on(arena, rng))
            _await_phase(arena, rng)
        name = rng.choices(list(actions), [weight for weight, _ in actions.values()])[0]
        if actions[name][1]():
            report.kills[name] += 1
        time.sleep(rng.uniform(0.3, 3))


def _await_phase(arena: Arena, rng: random.Random) -> None:
    """Wait until there is something to be lost: a process that starts, workers that train, or checkpoints. Whatever comes first ends it."""
    reached: Callable[[], Any] = rng.choices([lambda: True, arena.workers, arena.checkpoints], [1, 2, 3])[0]
    assert arena.driver is not None
    driver = arena.driver
    eventually(lambda: driver.poll() is not None or reached(), "neither workers nor checkpoints")
    time.sleep(rng.uniform(0, 2))


def _how_to_go_on(arena: Arena, rng: random.Random) -> str:
    """Submitting again always works; resuming needs a sweep that has come as far as MLflow."""
    if arena.server is not None:
        await_port(arena.port)
    begun = "trials to run in" in (arena.folder / "driver.log").read_text(errors="replace")
    return "resume" if begun and rng.random() < 0.5 else "submit"


def _finish(arena: Arena, report: Report) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert arena.driver is not None
        if arena.driver.poll() is None:
            time.sleep(0.2)
        elif arena.driver.returncode in (0, 1):
            return
        else:
            arena.start("submit")
    report.violations.append("the sweep does not come to its end")


def _kill_worker(arena: Arena, rng: random.Random) -> bool:
    workers = arena.workers()
    if not workers:
        return False
    try:
        rng.choice(workers).kill()
    except psutil.Error:
        return False
    return True


def _kill_driver(arena: Arena, number: signal.Signals) -> bool:
    """Whether the driver has died of the signal: one that it came to its end before, or did not hear, is no kill."""
    assert arena.driver is not None
    if arena.driver.poll() is not None:
        return False
    arena.driver.send_signal(number)
    try:
        return arena.driver.wait(PATIENCE) in (-number, INTERRUPTED)
    except subprocess.TimeoutExpired:
        # It comes with `ray[default]`.
        stacks = subprocess.run(["py-spy", "dump", "--pid", str(arena.driver.pid)], capture_output=True, text=True, check=False)
        log = (arena.folder / "driver.log").read_text(errors="replace")[-3000:]
        raise AssertionError(f"the driver goes on after {signal.Signals(number).name}:\n{log}\n{stacks.stdout}{stacks.stderr}") from None


def _kill_server(arena: Arena, rng: random.Random) -> bool:
    assert arena.server is not None
    os.killpg(arena.server.pid, signal.SIGKILL)
    arena.server.wait()
    time.sleep(rng.uniform(0, 6))
    arena.start_server()
    return True


def _kill_node(arena: Arena, rng: random.Random) -> bool:
    others = list(arena.cluster.worker_nodes)
    if not others:
        return False
    arena.cluster.remove_node(rng.choice(others), allow_graceful=False)
    arena.add_node()
    return True


def _fill_disk(arena: Arena, rng: random.Random) -> bool:
    filler = arena.disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    time.sleep(rng.uniform(0.5, 5))
    filler.unlink()
    return True


def tables(arena: Arena) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The sweep's runs and traces."""
    import orchestrator

    uri = f"sqlite:///{arena.work}/mlflow.db" if not arena.port else arena.store
    return orchestrator.load_runs("chaos", tracking_uri=uri), orchestrator.load_history("chaos", tracking_uri=uri)


def undisturbed(folder: Path, size: Size, database: Path | None = None, cluster: str | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of a sweep that nobody disturbs, on a Ray of its own or on two workers of a ``cluster`` with this user's token."""
    arena = Arena(folder, size, database=database)
    try:
        if cluster is not None:
            arena.environment |= {"RAY_ADDRESS": cluster, "RAY_AUTH_MODE": "token"}
        arena.start("submit", *(("--workers", "2") if cluster else ()))
        assert arena.driver is not None
        assert arena.driver.wait(600) == 1, (arena.folder / "driver.log").read_text()
        return tables(arena)
    finally:
        arena.close()


def differences(arena: Arena, expected: tuple[pd.DataFrame, pd.DataFrame]) -> Iterator[str]:
    """What is not as in the undisturbed sweep."""
    (runs, history), (true_runs, true_history) = tables(arena), expected
    if list(runs.trial_id) != list(true_runs.trial_id):
        yield "the trials are not the same"
        return
    for column in ("outcome", "steps"):
        wrong = runs.trial_id[~((runs[column] == true_runs[column]) | (runs[column].isna() & true_runs[column].isna()))]
        if len(wrong):
            yield f"{column} of {len(wrong)} trials differs, such as {wrong.iloc[0]}"
    if list(runs.columns) != list(true_runs.columns):
        yield f"columns differ: {sorted(set(runs.columns) ^ set(true_runs.columns))}"
    for name in ("loss", "error", "nuclear", "effective_rank", "cp_rank"):
        if not np.allclose(runs[name], true_runs[name], rtol=1e-6, atol=1e-12, equal_nan=True):
            yield f"final {name} differs"
    if len(history) != len(true_history):
        yield f"the traces have {len(history)} rows, not {len(true_history)}"
        return
    if not (history.trial_id.equals(true_history.trial_id) and history.step.equals(true_history.step)):
        yield "the traces have other steps"
        return
    for name in history.columns[2:]:
        if not np.allclose(history[name], true_history[name], rtol=1e-6, atol=1e-12, equal_nan=True):
            yield f"the traces of {name} differ"


def remains(arena: Arena) -> Iterator[str]:
    """What is there that should not be."""
    from mlflow import MlflowClient

    client = MlflowClient(arena.store)
    experiment = client.get_experiment_by_name("chaos").experiment_id
    runs = client.search_runs([experiment], max_results=20_000)
    finished = Counter(run.data.tags["orchestrate.trial_id"] for run in runs if run.data.tags.get("orchestrate.kind") == "trial" and run.info.status == "FINISHED")  # fmt: skip
    for trial, count in finished.items():
        if count != 1:
            yield f"trial {trial} has {count} finished runs"
    wanted = round(6 * arena.size.seeds * (1 - FAILING))
    if len(finished) != wanted:
        yield f"{len(finished)} trials have a finished run, not {wanted}"
    statuses = Counter(run.info.status for run in runs)
    if statuses["RUNNING"]:
        yield f"{statuses['RUNNING']} runs are still running"
    known = {run.info.run_id for run in client.search_runs([experiment], max_results=20_000, run_view_type=3)}
    folders = [*(arena.work / "mlruns").glob("*/*"), *(arena.work / "artifacts").glob("*/*")]
    stray = [path.name for path in folders if len(path.name) == 32 and path.name not in known]
    if stray:
        yield f"{len(stray)} folders of artifacts belong to no run, such as {stray[0]}"
    left = list((arena.disk / "state" / "orchestrate" / "storage").rglob("*"))
    if left:
        yield f"the storage is not empty: {[str(path.relative_to(arena.folder)) for path in left][:3]}"
    parts = [str(path) for path in arena.folder.rglob("*.part")]
    if parts:
        yield f"half-written files: {parts[:3]}"
    keep = {arena.server.pid} if arena.server is not None else set()
    deadline = time.monotonic() + 15
    while orphans := _orphans(arena, keep):
        if time.monotonic() > deadline:
            yield f"processes are left: {orphans[:3]}"
            return
        time.sleep(0.5)


def _orphans(arena: Arena, keep: set[int]) -> list[str]:
    """Processes of a driver that is gone. Those of the MLflow server and of the cluster's nodes are meant to be there."""
    found = []
    for process in arena.processes():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            ancestors = {parent.pid for parent in process.parents()}
            ours = process.pid in keep or ancestors & keep or (arena.cluster is not None and os.getpid() in ancestors)
            if (not ours and process.status() != psutil.STATUS_ZOMBIE) or (arena.cluster is not None and "RemoteWorker" in line):
                found.append(line[:80])
    return found
