"""Sweeps on a Slurm of two nodes: whole ones, and ones that lose a node, come to their time limit, or have another one beside them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter

import psutil
import pytest

import orchestrator
from tests import processes
from tests.held import GATE, LONG
from tests.processes import eventually
from tests.slurm import no_slurm, slurm

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(no_slurm()), reason=no_slurm() or "can run")]


class Work:
    """A folder with grids, a store and a storage of its own, and the jobs that are submitted there."""

    def __init__(self, folder, template, cluster):
        self.folder, self.cluster = folder, cluster
        shutil.copy(template, folder)
        (folder / "state").mkdir()
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.environment = os.environ | cluster.environment | {"MLFLOW_TRACKING_URI": self.uri, "XDG_STATE_HOME": str(folder / "state")}

    def submit(self, name, *arguments, grid=LONG, held=True):
        """Submit a grid, and return its job; its workers hold at their first checkpoints until the gate is open, if they are to be ``held``."""
        (self.folder / f"{name}.yaml").write_text(grid.replace("name: long", f"name: {name}"))
        command = [sys.executable, "-m", "orchestrator.cli.main", "slurm", f"{name}.yaml", "--nodes", "2", "--checkpoint-every", "0.1"]
        command += ["--json", *(["--dry-run"] if held else []), *(arguments or ("--time", "30"))]
        done = processes.run(command, cwd=self.folder, env=self.environment)
        assert done.returncode == 0, done.stderr
        if not held:
            return json.loads(done.stdout)["job"]
        script = self.folder / f"{name}.sh"
        script.write_text(done.stdout.replace("-m orchestrator.cli.main", "-m tests.held"))
        done = processes.run(["sbatch", "--parsable", script.name], cwd=self.folder, env=self.environment | {GATE: str(self.gate(name))})
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def gate(self, name):
        """The file for which the workers of a sweep wait."""
        return self.folder / f"{name}.gate"

    def log(self, job):
        path = self.folder / f"slurm-{job}.out"
        return path.read_text() if path.exists() else self.cluster.log("slurmctld")

    def await_held(self, name, job):
        """Wait until each of the two packs of a sweep has made its first checkpoint."""

        def held():
            assert self.cluster.job(job)["JobState"] in ("PENDING", "RUNNING", "CONFIGURING"), self.log(job)
            return len(list(self.folder.glob(f"state/**/{name}/**/checkpoints/*.safetensors"))) == 2

        eventually(held, lambda: self.log(job), every=0.5)

    def restart(self, job):
        """Let a job that was put back start: by itself Slurm would wait for two minutes."""
        self.cluster.run("scontrol", "update", f"jobid={job}", "starttime=now")

    def check(self, name, job, code="0:0"):
        """See that a job has ended with a code and left nothing, and that each trial of its sweep has one finished run."""
        found = self.cluster.ended(job)
        assert found["ExitCode"] == code, self.log(job)
        runs = orchestrator.load_runs(name, tracking_uri=self.uri)
        assert Counter(runs.outcome) == {"exhausted": 8}
        assert finished(self.uri, name) == Counter(dict.fromkeys(runs.trial_id, 1))
        eventually(lambda: not of_job(job), lambda: of_job(job), seconds=60)


def finished(uri, name):
    """How many finished runs each trial of an experiment has."""
    from mlflow import MlflowClient

    from orchestrator.tracking import layout

    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name(name).experiment_id], max_results=1000)
    trials = [run for run in runs if run.data.tags.get(layout.KIND) == layout.TRIAL and run.info.status == "FINISHED"]
    return Counter(run.data.tags[layout.TRIAL_ID] for run in trials)


def of_job(job):
    """The processes of a job."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURM_JOB_ID") == job and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            pass
    return found


@pytest.fixture(scope="module")
def cluster():
    with slurm() as started:
        yield started


@pytest.fixture
def work(tmp_path, template, cluster):
    return Work(tmp_path, template, cluster)


def test_a_sweep_runs_on_all_nodes_and_the_job_ends_as_it_does(work):
    claim = "claims:\n  wrong: {kind: within, of: steps, range: [null, 1]}\n"
    job = work.submit("plain", grid=LONG + claim, held=False)
    work.check("plain", job, code="1:0")
    assert "Ray is up on 2 of 2 nodes" in work.log(job)
    assert "2 at once (2 cores on 2 nodes)" in work.log(job)


@pytest.mark.slow
def test_a_node_is_drained_and_the_sweep_goes_on(work, cluster):
    job = work.submit("drained")
    work.await_held("drained", job)
    cluster.update("n2", "drain")
    work.gate("drained").touch()
    work.check("drained", job)
    eventually(lambda: cluster.run("sinfo", "-hn", "n2", "-o", "%T").strip() == "drained", every=0.5)
    cluster.update("n2", "resume")


@pytest.mark.slow
def test_a_node_dies_and_the_sweep_goes_on_without_it(work, cluster):
    job = work.submit("died")
    work.await_held("died", job)
    cluster.kill_node("n2", job)
    try:
        eventually(lambda: cluster.run("sinfo", "-hn", "n2", "-o", "%T").startswith("down"), every=0.5)
        work.gate("died").touch()
        work.check("died", job)
    finally:
        cluster.start_node("n2")
    assert "4 trials are tried again, 4 of them from where they stood" in work.log(job)
    eventually(lambda: cluster.run("sinfo", "-hn", "n2", "-o", "%T").strip() == "idle", every=0.5)


@pytest.mark.slow
def test_the_first_node_dies_and_the_sweep_goes_on_when_its_turn_comes_again(work, cluster):
    job = work.submit("headless")
    work.await_held("headless", job)
    cluster.kill_node("n1", job)
    try:
        eventually(lambda: cluster.job(job)["JobState"] == "PENDING", lambda: cluster.job(job), every=0.5)
        assert cluster.job(job)["Restarts"] == "1"
    finally:
        cluster.start_node("n1")
    work.gate("headless").touch()
    eventually(lambda: not of_job(job), lambda: of_job(job), seconds=60)
    work.restart(job)
    work.check("headless", job)
    assert "8 trials go on from their checkpoints" in work.log(job)


@pytest.mark.slow
def test_what_slurm_puts_back_by_itself_goes_on_and_what_is_cancelled_ends(work, cluster):
    job = work.submit("preempted")
    work.await_held("preempted", job)
    cluster.run("scontrol", "requeue", job)
    eventually(lambda: cluster.job(job)["JobState"] == "PENDING" and not of_job(job), lambda: of_job(job), every=0.5)
    work.restart(job)
    eventually(lambda: work.log(job).count("8 trials to run") == 2, lambda: work.log(job), every=0.5)
    cluster.run("scancel", job)
    assert cluster.ended(job)["JobState"] == "CANCELLED"
    eventually(lambda: not of_job(job), lambda: of_job(job), seconds=60)
    work.gate("preempted").touch()
    job = work.submit("preempted")
    work.check("preempted", job)
    assert "8 trials go on from their checkpoints" in work.log(job)


@pytest.mark.slow
def test_at_the_time_limit_it_is_saved_and_goes_on_when_its_turn_comes_again(work, cluster):
    job = work.submit("limited", "--time", "30", "--margin", "60")
    work.await_held("limited", job)
    # However long it has taken until here, the limit is a minute or two away.
    hours, minutes, _ = map(int, cluster.job(job)["RunTime"].split(":"))
    cluster.run("scontrol", "update", f"jobid={job}", f"timelimit={60 * hours + minutes + 2}")
    eventually(lambda: cluster.job(job)["JobState"] == "PENDING", lambda: work.log(job), every=0.5)
    eventually(lambda: not of_job(job), lambda: of_job(job), seconds=60)
    assert "interrupted with 8 trials to go" in work.log(job)
    assert "the job goes back into the queue" in work.log(job)
    cluster.run("scontrol", "update", f"jobid={job}", "timelimit=30")
    work.gate("limited").touch()
    work.restart(job)
    work.check("limited", job)
    assert cluster.job(job)["Restarts"] == "1"
    assert "8 trials go on from their checkpoints" in work.log(job)


@pytest.mark.slow
def test_two_allocations_side_by_side_leave_each_other_alone(work, cluster):
    first, second = work.submit("first"), work.submit("second")
    work.await_held("first", first)
    work.await_held("second", second)
    nodes = [cluster.job(job)["NodeList"] for job in (first, second)]
    assert nodes == ["n[1-2]"] * 2
    work.gate("first").touch()
    work.check("first", first)
    assert cluster.job(second)["JobState"] == "RUNNING", work.log(second)
    work.gate("second").touch()
    work.check("second", second)
    assert "its worker died" not in work.log(second)
