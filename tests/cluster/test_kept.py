"""A local cluster that is kept up: sweeps find it, use its workers and give them back; whatever dies, the next sweep finds warm ones."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster import kept
from orchestrator.cluster.keeper import Care, care
from orchestrator.cluster.kept import address_of, is_here
from orchestrator.cluster.sharing import WorkerName
from orchestrator.cluster.sizing import Allotment
from orchestrator.cluster.warm import WarmName
from orchestrator.errors import UsageError
from tests.cli.commands import GRID
from tests.processes import communicate, eventually, popen, run

CORE, QUARTER = Allotment(1, 0), Allotment(1, 0.25)
ENDLESS = """
name: endless
fixed:
  problem: {kind: matrix_completion, shape: [2, 2], entries: [[0, 1, 1.0]]}
  factorization: {kind: deep_matrix, depth: 2}
  init: {kind: gaussian, scale: 1e-3}
  optimizer: {kind: gd, lr: 1e-9}
  stop: {steps: 1_000_000_000_000}
grid: {factorization.depth: [2, 3]}
record: {points: 0, measures: []}
"""


@pytest.mark.parametrize(
    ("wanted", "there", "claims", "gpus", "due"),
    [
        ({CORE: 2}, {}, [], 0, Care({CORE: 2})),
        ({CORE: 2}, {CORE: 2}, [], 0, Care({})),
        ({CORE: 2}, {CORE: 1}, [CORE], 0, Care({})),
        ({CORE: 2}, {}, [CORE], 0, Care({CORE: 1})),
        ({CORE: 2}, {CORE: 2}, [CORE], 0, Care({}, 1, 0)),
        ({CORE: 2}, {CORE: 2}, [Allotment(2, 0)], 0, Care({}, 2, 0)),
        ({QUARTER: 4}, {QUARTER: 1}, [], 1, Care({QUARTER: 1})),
        ({QUARTER: 4}, {QUARTER: 1}, [Allotment(0.5, 1)], 1, Care({}, 0, 0.25)),
        ({QUARTER: 1, CORE: 1}, {}, [], 1, Care({QUARTER: 1, CORE: 1})),
    ],
)
def test_what_sweeps_start_themselves_comes_before_what_is_kept_warm(wanted, there, claims, gpus, due):
    names = [WorkerName("01000000", kind, n) for n, kind in enumerate(claims)]
    assert care(wanted, there, names, 2, gpus) == due


def test_names_say_which_program_it_is_and_no_sweep_takes_them_for_its_own():
    name = WarmName("abc", QUARTER, 7)
    assert WarmName.parse(name.name) == name
    assert WorkerName.parse(name.name) is None
    for other in ("", "warm", "warm abc 1 x 7", WorkerName("01000000", CORE, 0).name):
        assert WarmName.parse(other) is None


KEEPER = """#!{python}
import sys, time
sys.path.insert(0, {root!r})
from orchestrator import liveness
from orchestrator.cluster.build import build
from orchestrator.cluster.kept import Kept, save
time.sleep(0.3)
save(Kept("127.0.0.1:1", liveness.process(), liveness.machine(), build(), 1, 0, 1, 0, time.time() + 60))
time.sleep(600)
"""
"""What stands for a cluster and its process: it says that it is there, and ends at a signal."""


def test_of_two_who_want_a_cluster_at_once_one_has_it_and_the_other_hears_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    stand_in = tmp_path / "python"
    stand_in.write_text(KEEPER.format(python=sys.executable, root=str(Path(__file__).parents[2])))
    stand_in.chmod(0o755)
    monkeypatch.setattr(kept.sys, "executable", str(stand_in))
    with ThreadPoolExecutor() as threads:
        errors = [one.exception() for one in [threads.submit(kept.up, 1, 60.0) for _ in range(2)]]
    try:
        assert sorted(type(error) for error in errors if error is not None) == [UsageError]
        assert (kept.down(now=True) is not None, kept.kept()) == (True, None)
    finally:
        kept.down(now=True)


class Machine:
    """A user's machine: a state folder and a folder to work in, and the program as they start it."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.environment = os.environ | {"XDG_STATE_HOME": str(folder / "state")}
        shutil.copy(template, self.folder / "mlflow.db")
        (self.folder / "grid.yaml").write_text(GRID)
        (self.folder / "endless.yaml").write_text(ENDLESS)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "orchestrator.cli.main", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(self.command(*arguments), cwd=self.folder, env=self.environment)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return popen(self.command(*arguments), cwd=self.folder, env=self.environment, **pipes)

    def kept(self) -> kept.Kept | None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_STATE_HOME", self.environment["XDG_STATE_HOME"])
            return kept.kept()

    def keeper(self) -> psutil.Process:
        there = self.kept()
        assert there is not None
        return psutil.Process(int(there.process.split()[0]))

    def workers(self, kind: str = "WarmWorker") -> set[int]:
        """The cluster's workers: such as are kept warm, or those that a sweep has started."""
        found = set()
        for process in self.keeper().children(recursive=True):
            with suppress(psutil.Error):
                found |= {process.pid} if kind in " ".join(process.cmdline()) else set()
        return found

    def settled(self) -> set[int]:
        """The workers, once there are two and no sweep is there."""

        def settled() -> set[int]:
            there = self.kept()
            workers = self.workers()
            return workers if there is not None and there.workers == 2 and not there.sweeps and len(workers) == 2 else set()

        found: set[int] = eventually(settled, lambda: (self.kept(), self.workers()))
        return found

    def train(self) -> subprocess.Popen[str]:
        """Start a sweep without an end. Returns once it trains: before, an interrupt finds nothing to save."""
        state, began = Path(self.environment["XDG_STATE_HOME"]), time.time()
        sweep = self.start("submit", "endless.yaml", "--checkpoint-every", "0.1")
        # Not those that an earlier sweep has left, from which it goes on.

        def saved() -> bool:
            assert sweep.poll() is None, sweep.communicate()
            # What is being written or removed meanwhile may be gone when it is looked at.
            with suppress(FileNotFoundError):
                return any(path.stat().st_mtime > began for path in state.rglob("checkpoints/*.safetensors"))
            return False

        eventually(saved)
        return sweep


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory, template):
    machine = Machine(tmp_path_factory.mktemp("machine"), template)
    yield machine
    machine.run("down", "--now")


@pytest.fixture
def machine(one_machine):
    """With a cluster that is up, whichever test ended the one before."""
    if one_machine.kept() is None:
        up = one_machine.run("up", "--workers", "2")
        assert up.returncode == 0, up.stderr
        assert "2 workers warm; ends in 60 min if no sweep comes" in up.stdout
    return one_machine


@pytest.mark.cluster
def test_a_second_one_is_refused_and_the_doctor_sees_it(machine):
    again = machine.run("up")
    assert again.returncode == 2
    assert again.stderr == f"error: a local cluster is up at {machine.kept().address}: `orchestrate down` ends it\n"
    checks = json.loads(machine.run("doctor", "--json").stdout)
    (said,) = [check["found"] for check in checks if check["name"] == "local cluster"]
    assert said.startswith(f"{machine.kept().address}, ")


@pytest.mark.cluster
def test_sweeps_have_the_same_workers_one_after_the_other_and_the_numbers_of_a_ray_of_their_own(machine):
    before = machine.settled()
    kinds = {"kept": [], "own": ["--address", "local"]}
    for name, options in kinds.items():
        (machine.folder / f"{name}.yaml").write_text(GRID.replace("small", name))
        done = machine.run("submit", f"{name}.yaml", *options)
        assert done.returncode == 0, done.stderr
    assert machine.settled() == before
    tables = [list(csv.DictReader(machine.run("runs", name, "--format", "csv").stdout.splitlines())) for name in kinds]
    kept_ones, own = ([[row[key] for key in ("trial_id", "outcome", "steps", "loss", "nuclear")] for row in table] for table in tables)
    assert kept_ones == own
    assert len(own) == 3


@pytest.mark.cluster
def test_a_killed_sweep_takes_its_workers_with_it_and_the_next_one_finds_new_ones(machine):
    before = machine.settled()
    sweep = machine.start("submit", "endless.yaml")
    eventually(lambda: machine.kept().sweeps == 1, lambda: sweep.poll())
    refused = machine.run("down")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: a sweep is on the local cluster: wait, or cancel")
    sweep.kill()
    communicate(sweep)
    after = machine.settled()
    assert not after & before
    done = machine.run("submit", "grid.yaml")
    assert done.returncode == 0, done.stderr
    assert machine.settled() == after


@pytest.mark.cluster
def test_an_interrupt_saves_and_gives_the_workers_back(machine):
    machine.settled()
    sweep = machine.train()
    sweep.send_signal(signal.SIGINT)
    _, errors = communicate(sweep)
    assert sweep.returncode == 130, errors
    assert "interrupted with 2 trials to go" in errors
    machine.settled()


@pytest.mark.cluster
def test_a_worker_that_dies_is_replaced_in_its_sweep_and_then_among_the_warm_ones(machine):
    before = machine.settled()
    sweep = machine.start("submit", "endless.yaml")
    eventually(lambda: machine.kept().sweeps == 1, lambda: sweep.poll())
    os.kill(min(before), signal.SIGKILL)
    eventually(lambda: machine.workers("RemoteWorker"))
    sweep.send_signal(signal.SIGINT)
    communicate(sweep)
    assert machine.settled() - before


@pytest.mark.cluster
def test_where_the_program_has_changed_a_sweep_has_a_ray_of_its_own(machine, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", machine.environment["XDG_STATE_HOME"])
    there = machine.kept()
    assert (address_of(None), is_here(there.address)) == (there.address, True)
    assert address_of("10.0.0.5:6379") == "10.0.0.5:6379"
    monkeypatch.setattr(kept, "build", lambda: "another")
    assert address_of(None) == "local"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.6:6379")
    assert address_of(None) == "10.0.0.6:6379"


@pytest.mark.cluster
def test_it_ends_with_all_that_belongs_to_it_and_a_sweep_on_it_can_go_on(machine):
    machine.settled()
    sweep = machine.train()
    there = [machine.keeper(), *machine.keeper().children(recursive=True)]
    assert machine.run("down", "--now").stdout.endswith("has ended\n")
    _, errors = communicate(sweep)
    assert sweep.returncode == 130, errors
    assert "interrupted with 2 trials to go" in errors
    eventually(lambda: not any(process.is_running() for process in there))
    assert machine.kept() is None
    assert machine.run("down").stderr == "no local cluster is up\n"
    assert machine.run("submit", "grid.yaml").returncode == 0


@pytest.mark.slow
@pytest.mark.cluster
def test_it_ends_when_nobody_has_used_it_for_a_while(tmp_path, template):
    machine = Machine(tmp_path, template)
    up = machine.run("up", "--workers", "1", "--idle-minutes", "0.0001")
    assert up.returncode == 0 or "exit code 0" in up.stderr, up.stderr
    eventually(lambda: machine.kept() is None)
