"""Sweeps of users' own kinds: their code goes to workers and into MLflow, and runs from there only for the sweep's own work."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator
from orchestrator.cluster.jobs import Order
from orchestrator.errors import CodeError, UsageError
from orchestrator.extensions import Carried, carried, use
from orchestrator.grid import parse_grid
from orchestrator.options import Options
from orchestrator.planning.pack import Crew
from orchestrator.planning.plan import make_plan
from orchestrator.scripting.problems import load_problem
from orchestrator.storage.base import open_storage
from orchestrator.sweeps.measure import measure
from orchestrator.sweeps.own_code import code_of
from orchestrator.sweeps.rerun import rerun_grid
from orchestrator.sweeps.resume import grid_of
from orchestrator.sweeps.share import export_sweep, import_sweep
from orchestrator.sweeps.submit import recording_of, submit
from orchestrator.tracking.read.queries import find_sweep
from orchestrator.tracking.store import open_store
from tests.cli.commands import run, variables
from tests.forked import Forked
from tests.held import GATE
from tests.processes import communicate, eventually
from tests.sweeps.test_submit import Quiet
from workloads.extensions import activate, active
from workloads.factorizations import FACTORIZATIONS

MODELS = """\
import sys
from pathlib import Path

from workloads import Factorization, measure

(Path(__file__).absolute().parent / "ran").touch()


class Outer(Factorization):
    kind = "outer"
    most: float

    def shapes(self, shape):
        return {"u": (shape[0],), "v": (shape[1],)}

    def product(self, u, v):
        if u.abs().max() > self.most:
            raise ValueError("too large")
        return u[:, None] * v


@measure("largest")
def largest(x):
    return [x.factors["u"].abs().max(), x.product.abs().max()]
"""
GRID = """\
name: mine
needs: models.py
fixed:
  problem: {kind: matrix_completion, shape: [4, 3], target: {rank: 1, frobenius: 9}, observed: 8}
  factorization: {kind: outer}
  init: {kind: gaussian, scale: 0.01}
  optimizer: {kind: gd, lr: 1e-3}
  stop: {steps: 3000}
grid:
  factorization.most: [100.0, 1.0]
seeds: 3
record: {points: 10, measures: [error, largest]}
resources: {engine: batched}
"""


@pytest.fixture(autouse=True)
def _built_in_alone():
    yield
    activate(())


@pytest.fixture(scope="module")
def folder(tmp_path_factory, template):
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(template, folder)
    (folder / "models.py").write_text(MODELS)
    return folder


@pytest.fixture(scope="module")
def store(folder):
    return open_store(f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="module")
def swept(folder, cluster_address):
    """A sweep half of whose trials raise on their way, on a cluster whose workers have never seen the file."""
    use([str(folder / "models.py")])
    grid = parse_grid(GRID, str(folder / "grid.yaml"), folder)
    options = Options(address=cluster_address, tracking_uri=f"sqlite:///{folder}/mlflow.db", storage=str(folder / "storage"), workers=1)
    summary = submit(grid, Quiet(), options)
    activate(())
    (folder / "ran").unlink()
    return summary


@pytest.mark.ray
def test_a_trial_that_raises_fails_in_a_line_and_others_go_on(swept, folder, store):
    assert (swept.trials, swept.failed) == (6, 3)
    runs = orchestrator.load_runs(swept.sweep_id, tracking_uri=store.uri)
    failed = runs["outcome"] == "failed"
    assert set(runs["factorization.most"][failed]) == {1.0}
    assert (runs["steps"][~failed] == 3000).all()
    assert (runs["largest_0"][~failed] > 1).all()
    tags = [store.client.get_run(run).data.tags for run in runs["run_id"][failed]]
    assert {tag["orchestrate.error"] for tag in tags} == {f"{folder}/models.py:18: ValueError: too large"}


@pytest.mark.ray
def test_code_is_kept_and_run_only_for_the_sweep_s_work(swept, folder, store):
    sweep, storage = find_sweep(store, swept.sweep_id), open_storage(str(folder / "storage"))
    (kept,) = code_of(store, sweep)
    assert kept.files == {"models.py": MODELS.encode()}
    orchestrator.load_history(swept.sweep_id, tracking_uri=store.uri)
    with pytest.raises(UsageError, match=r"is of kinds or measures in models.py, which is not run only to read: give it as --with"):
        grid_of(store, storage, sweep)
    with pytest.raises(UsageError, match="not run only to read"):
        load_problem(swept.sweep_id, None, store.uri, str(folder / "storage"))
    assert active() == ()
    assert not (folder / "ran").exists()
    assert load_problem(swept.sweep_id, None, store.uri, str(folder / "storage"), [str(folder / "models.py")]).shape == (4, 3)
    # What has been run in this process is there, as after a submit from a notebook.
    assert load_problem(swept.sweep_id, None, store.uri, str(folder / "storage")).shape == (4, 3)
    activate(())
    frame = measure(store, storage, sweep, ["largest", "nuclear"])
    assert list(frame.columns) == ["trial_id", "largest_0", "largest_1", "nuclear"]
    recorded = orchestrator.load_runs(swept.sweep_id, tracking_uri=store.uri).set_index("trial_id")["largest_1"]
    assert frame.set_index("trial_id")["largest_1"].tolist() == pytest.approx(recorded[frame["trial_id"]].tolist(), rel=1e-12)
    activate(())
    chosen = frame["trial_id"][0]
    assert [trial.trial_id for trial in rerun_grid(store, storage, sweep, [chosen[:8]], ["points=20"]).trials] == [chosen]


@pytest.mark.ray
def test_other_code_on_resume_is_a_line(swept, folder, store, tmp_path):
    sweep, storage = find_sweep(store, swept.sweep_id), open_storage(str(folder / "storage"))
    (tmp_path / "models.py").write_text(MODELS.replace("u[:, None] * v", "v * u[:, None]"))
    with pytest.raises(UsageError) as caught:
        grid_of(store, storage, sweep, [str(tmp_path / "models.py")], for_work=True)
    message = str(caught.value)
    assert message.startswith(f"models.py is not as sweep {swept.sweep_id} was submitted with it (SHA-256 ")
    assert message.endswith("go on without --with, which takes it as it was, or submit the grid anew")
    assert not (tmp_path / "ran").exists()
    for given in ([], [str(folder / "models.py")]):
        grid = grid_of(store, storage, sweep, given, for_work=True)
        assert len(grid.trials) == 6
        assert [extension.name for extension in grid.extensions] == ["models.py"]


@pytest.mark.ray
def test_code_goes_with_a_sweep_into_a_file_and_does_not_run_there(swept, folder, store, tmp_path, template):
    told = []
    (folder / "ran").unlink(missing_ok=True)
    export_sweep(store, find_sweep(store, swept.sweep_id), tmp_path / "x.zip", told.append)
    shutil.copy(template, tmp_path)
    other = open_store(f"sqlite:///{tmp_path}/mlflow.db")
    assert import_sweep(other, tmp_path / "x.zip").code == ("models.py",)
    assert not (folder / "ran").exists()
    assert told == []
    sweep = find_sweep(other, swept.sweep_id)
    assert len(grid_of(other, open_storage(str(tmp_path / "storage")), sweep, for_work=True).trials) == 6


@pytest.mark.ray
def test_submitted_again_nothing_runs_and_with_other_code_everything(swept, folder, store):
    from orchestrator.cli.commands.plan import reuse_of

    use([str(folder / "models.py")])
    again = reuse_of(parse_grid(GRID, "grid.yaml", folder), (), store.uri)
    assert again.reused == 3  # failed ones are tried again
    changed = folder / "changed" / "models.py"
    changed.parent.mkdir()
    changed.write_text(MODELS + "\n")
    use([str(changed)])
    assert reuse_of(parse_grid(GRID, "grid.yaml", folder), (), store.uri).reused == 0


@pytest.mark.ray
def test_code_that_workers_cannot_load_ends_the_sweep_with_a_line(folder, cluster_address, tmp_path):
    text = MODELS.replace("import sys\n", "import sys\nassert 'default_worker' not in ' '.join(sys.orig_argv), 'not here'\n")
    (tmp_path / "models.py").write_text(text)
    use([str(tmp_path / "models.py")])
    grid = parse_grid(GRID.replace("name: mine", "name: unloadable"), str(tmp_path / "grid.yaml"), tmp_path)
    options = Options(address=cluster_address, tracking_uri=f"sqlite:///{folder}/mlflow.db", storage=str(tmp_path / "storage"), workers=1)
    with pytest.raises(CodeError, match=r"models.py:2: AssertionError: not here$"):
        submit(grid, Quiet(), options)


@pytest.mark.slow
@pytest.mark.ray
def test_an_interrupted_sweep_goes_on_with_the_code_that_it_keeps(tmp_path, template, cluster_address):
    shutil.copy(template, tmp_path)
    (tmp_path / "models.py").write_text(MODELS.replace('(Path(__file__).absolute().parent / "ran").touch()\n', ""))
    text = GRID.replace("[100.0, 1.0]", "[100.0]").replace("steps: 3000", "steps: 100000").replace("seeds: 3", "seeds: 2")
    (tmp_path / "grid.yaml").write_text(text)
    environment = variables(tmp_path) | {GATE: str(tmp_path / "gate"), "PYTHONPATH": os.environ["PYTHONPATH"]}
    where = ["--address", cluster_address, "--storage", str(tmp_path / "storage"), "--workers", "1"]
    arguments = ["submit", "grid.yaml", "--with", "models.py", "--checkpoint-every", "0.1", *where]
    sweep = Forked(arguments, module="tests.held", cwd=tmp_path, env=environment)
    eventually(lambda: sweep.poll() is not None or list((tmp_path / "storage").glob("**/checkpoints/*")))
    sweep.send_signal(signal.SIGINT)
    _, errors = communicate(sweep)
    assert sweep.returncode == 130, errors
    assert "2 trials to go: `orchestrate resume" in errors
    (tmp_path / "models.py").unlink()
    resumed = run(tmp_path, "resume", "--json", *where)
    assert resumed.returncode == 0, resumed.stderr
    assert "2 trials go on from their checkpoints" in resumed.stderr
    summary = json.loads(resumed.stdout.splitlines()[-1])
    assert (summary["trials"], summary["exhausted"]) == (2, 2)


UNPACK = "import pickle, sys\ncarried = pickle.load(sys.stdin.buffer)\nprint(carried.opened().trials[0].spec.factorization)"


def carry(text, seconds=60.0):
    """A pack on its way, as a worker receives it."""
    path = Path("models.py")
    path.write_text(text)
    use(["models.py"])
    grid = parse_grid(GRID)
    (pack, *_) = make_plan(grid.trials, recording_of(grid), "batched", [Crew(1)]).packs
    whole = carried(pack, grid.extensions)
    assert isinstance(whole, Carried)
    return pickle.dumps(Carried(whole.extensions, whole.content, seconds))


def test_a_pack_brings_the_code_that_its_trials_are_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = carry(MODELS)
    Path("models.py").unlink()
    done = subprocess.run([sys.executable, "-c", UNPACK], input=content, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "most=100.0"


def test_an_import_that_never_ends_on_a_worker_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = carry(MODELS.replace("import sys\n", "import sys\nwhile sys.orig_argv[1] == '-c':\n    pass\n"), 0.5)
    done = subprocess.run([sys.executable, "-c", UNPACK], input=content, capture_output=True, timeout=120)
    assert done.returncode != 0
    assert "CodeError: models.py:" in done.stderr.decode()
    assert "the import takes more than 0.5 s: does it end?" in done.stderr.decode()


def test_a_job_brings_the_code_of_its_grid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    carry(MODELS)
    grid, folder = parse_grid(GRID), tmp_path / "job"
    folder.mkdir()
    Order("x", "http://head:8265", "grid.yaml", [], {}, {}, {}).write(folder, grid)
    Path("models.py").unlink()
    activate(())
    there = Order.read(folder).grid(folder)
    assert [trial.trial_id for trial in there.trials] == [trial.trial_id for trial in grid.trials]
    assert there.extensions == grid.extensions


def test_versions_follow_each_other_in_one_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old, new = pickle.loads(carry(MODELS)), pickle.loads(carry(MODELS.replace("too large", "far too large")))
    for one in (old, new, old):
        pack = one.opened()
        assert type(pack.trials[0].spec.factorization) is FACTORIZATIONS["outer"]
        assert FACTORIZATIONS["outer"].code == one.extensions[0].digest
