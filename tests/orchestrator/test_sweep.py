"""Whole sweeps on an embedded Ray, read back with a plain MLflow client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

import orchestrator
from orchestrator.dispatch import Cluster
from orchestrator.errors import RayUnavailable
from orchestrator.grid import parse_grid
from orchestrator.plan import make_plan
from orchestrator.sweep import submit
from workloads.recording import Recording
from workloads.results import Finished, Outcome

pytestmark = pytest.mark.ray

GRID = """
name: mixed
fixed:
  optimizer: {kind: gd, lr: 0.05}
  stop: {loss: 1e-4, steps: 400}
cases:
  - problem: {kind: matrix_completion, shape: [4, 4], target: {rank: 1, frobenius: 2}, observed: 10}
    factorization: {kind: deep_matrix, depth: 2}
    init: {kind: gaussian, scale: 0.3}
  - problem: {kind: tensor_completion, shape: [2, 3, 2], target: {rank: 1, frobenius: 2}, observed: 8}
    factorization: {kind: cp}
    init: {kind: gaussian, scale: 0.5}
  - problem: {kind: matrix_completion, shape: [4, 4], target: {rank: 1, frobenius: 2}, observed: 10}
    factorization: {kind: deep_matrix, depth: 2}
    init: {kind: gaussian, scale: 0.3}
    optimizer.lr: 1e3
  - problem: {kind: matrix_completion, shape: [4, 4], target: {rank: 1, frobenius: 2}, observed: 10}
    factorization: {kind: deep_matrix, depth: 2}
    init: {kind: file, file: singular.npz, det_sign: positive}
seeds: 2
record: {points: 20, measures: [error, nuclear, components]}
"""


class Quiet:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def update(self, state):
        pass


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps")
    singular = np.ones((4, 4))
    np.savez(folder / "singular.npz", W1=singular, W2=singular)
    return folder


def go(store, text=GRID, **options):
    grid = parse_grid(text, "mixed.yaml", store, options.pop("overrides", ()))
    reporter = Quiet()
    return submit(grid, reporter, tracking_uri=f"sqlite:///{store}/mlflow.db", **options), reporter


@pytest.fixture(scope="module")
def first(store):
    return go(store)[0]


@pytest.fixture(scope="module")
def client(store, first):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{store}/mlflow.db")


def children(client, summary):
    experiment = client.get_experiment_by_name(summary.experiment).experiment_id
    return client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{summary.parent_run_id}'", max_results=1000)


def uri(store):
    return f"sqlite:///{store}/mlflow.db"


def test_every_trial_has_an_outcome(first):
    assert (first.trials, first.diverged, first.failed, first.reused) == (8, 2, 2, 0)
    assert first.converged + first.exhausted == 4


def test_mlflow_has_the_parent_and_every_child(store, client, first):
    parent = client.get_run(first.parent_run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trials"] == 8
    assert parent.data.metrics["failed"] == 2
    names = {a.path for a in client.list_artifacts(first.parent_run_id)}
    assert {"grid.yaml", "plan.json", "trials.parquet", "traces"} <= names
    runs = children(client, first)
    assert sorted(r.data.tags["orchestrate.outcome"] for r in runs).count("failed") == 2
    frame = orchestrator.load_runs(first.sweep_id, tracking_uri=uri(store))
    history = orchestrator.load_history(first.sweep_id, tracking_uri=uri(store))
    assert len(runs) == len(frame) == 8
    for run in runs:
        row = frame[frame.run_id == run.info.run_id].iloc[0]
        failed = row.outcome == "failed"
        assert run.info.status == ("FAILED" if failed else "FINISHED")
        assert run.data.params["optimizer.lr"] == str(row["optimizer.lr"])
        if failed:
            assert "determinant of the initial product is zero" in run.data.tags["mlflow.note.content"]
            continue
        trace = history[history.trial_id == row.trial_id]
        assert trace.step.iloc[0] == 0
        assert trace.step.iloc[-1] == row.steps
        points = client.get_metric_history(run.info.run_id, "loss")
        assert len(points) <= 31
        assert points[-1].step == row.steps
        if row.outcome != "diverged":
            assert run.data.metrics["error"] == trace.error.iloc[-1] == row["error"]
        factors = load_file(client.download_artifacts(run.info.run_id, "factors.safetensors"))
        assert set(factors) == ({"W1", "W2"} if row["factorization.kind"] == "deep_matrix" else {"A1", "A2", "A3"})


def test_traces_are_parquet_files_of_the_parent(client, first):
    folder = Path(client.download_artifacts(first.parent_run_id, "traces"))
    table = pq.read_table(sorted(folder.glob("*.parquet"))[0])
    assert {"trial_id", "step", "loss"} <= set(table.column_names)


def test_submitting_again_runs_only_what_failed(store, client, first):
    before = {r.info.run_id for r in children(client, first)}
    again, reporter = go(store)
    assert (again.reused, again.failed) == (6, 2)
    assert "6 of 8 trials are in MLflow already and are reused" in reporter.notes
    assert len(children(client, again)) == 2
    assert {r.info.run_id for r in children(client, first)} == before
    runs = orchestrator.load_runs(again.sweep_id, tracking_uri=uri(store))
    assert len(runs) == 8
    assert set(runs[runs.outcome != "failed"].run_id) <= before
    one, two = (orchestrator.load_history(s.sweep_id, tracking_uri=uri(store)) for s in (first, again))
    assert one.equals(two), "the new sweep's history includes what it reused"


def test_an_extended_grid_runs_only_what_is_new(store, first):
    more, _ = go(store, overrides=["seeds=3"])
    assert (more.trials, more.reused) == (12, 6)


def test_asking_for_another_measure_runs_again_and_for_fewer_does_not(store, first):
    wider, _ = go(store, GRID.replace("nuclear,", "nuclear, frobenius,"))
    assert wider.reused == 0
    fewer, _ = go(store, GRID.replace("nuclear, ", ""))
    assert fewer.reused == 6


def test_fresh_runs_everything(store, first):
    assert go(store, fresh=True)[0].reused == 0


def test_asking_for_more_than_the_cluster_has_is_an_error_at_once(store, client, first):
    count = len(client.search_runs([client.get_experiment_by_name("mixed").experiment_id]))
    with pytest.raises(RayUnavailable, match="asks for 1e\\+06 a pack"):
        go(store, GRID + "resources: {cpus: 1e6}\n")
    with pytest.raises(RayUnavailable, match=r"resources.gpus asks for 64 a pack"):
        go(store, GRID + "resources: {gpus: 64}\n")
    assert len(client.search_runs([client.get_experiment_by_name("mixed").experiment_id])) == count


def test_steps_asked_for_come_back_from_files(store):
    rng = np.random.default_rng(0)
    w1, w2, target = (rng.standard_normal((3, 3)) * 0.5 for _ in range(3))
    np.savez(store / "start.npz", W1=w1, W2=w2)
    np.savez(store / "truth.npz", target=target)
    summary, _ = go(
        store,
        """
name: from-files
fixed:
  problem: {kind: matrix_completion, file: truth.npz, observed: 6}
  factorization: {kind: deep_matrix, depth: 2}
  init: {kind: file, file: start.npz}
  optimizer: {kind: gd, lr: 0.01}
  stop: {steps: 100}
record: {steps: [0, 1, 10, 100], measures: [error, entry_0_0]}
""",
    )
    command = [sys.executable, "-m", "orchestrator.cli.main", "history", summary.sweep_id, "--format", "csv", "--tracking-uri", uri(store)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert lines[0] == "trial_id,step,loss,entry_0_0,error"
    rows = [line.split(",") for line in lines[1:]]
    assert [int(r[1]) for r in rows] == [0, 1, 10, 100]
    first = w2 @ w1
    assert float(rows[0][3]) == pytest.approx(first[0, 0], rel=1e-12)
    assert float(rows[0][4]) == pytest.approx(np.linalg.norm(first - target) / np.linalg.norm(target), rel=1e-12)


def test_logical_gpus_are_shared_and_a_dead_worker_fails_its_pack_alone():
    slow = """
name: slow
fixed:
  problem: {kind: matrix_completion, shape: [2, 2], entries: [[0, 1, 1.0]]}
  factorization: {kind: deep_matrix, depth: 2}
  init: {kind: gaussian, scale: 1e-3}
  optimizer: {kind: gd, lr: 1e-9}
  stop: {steps: %d}
grid: {seed: [1, 2]}
record: {points: 0, measures: []}
"""
    quick, endless = (parse_grid(slow % steps).trials for steps in (50, 10**12))
    packs = [make_plan(t, Recording((), 0), "batched", 1).packs[0] for t in (quick, endless)]
    import dataclasses

    packs = [dataclasses.replace(p, name=name) for p, name in zip(packs, ("quick", "endless"), strict=True)]
    outcomes: dict[str, set[Outcome]] = {"quick": set(), "endless": set()}
    errors = []
    with Cluster.connect("local", cpus=2, gpus=1) as cluster:
        assert cluster.gpus == 1
        allotment = cluster.allot(1, "auto", 1000)
        assert allotment.gpus == 0.25
        assert cluster.workers(allotment) == 2, "four fit on the GPU, two on the cores"
        killed = False
        for name, event in cluster.run([(p, allotment) for p in packs], Recording((), 0), {}):
            if isinstance(event, Finished):
                outcomes[name] |= {r.outcome for r in event.results}
                errors += [r.error for r in event.results if r.error]
            if not killed and name == "endless":
                (worker,) = _processes("ray::endless")
                os.kill(worker, signal.SIGKILL)
                killed = True
    assert outcomes == {"quick": {Outcome.EXHAUSTED}, "endless": {Outcome.FAILED}}
    assert errors
    assert "WorkerCrashedError" in errors[0]


def _processes(title):
    import psutil

    mine = psutil.Process().children(recursive=True)
    return [p.pid for p in mine if title in " ".join(p.cmdline())]


LONG = """
name: long
fixed:
  problem: {kind: matrix_completion, shape: [2, 2], entries: [[0, 1, 1.0], [1, 1, 0.5]]}
  factorization: {kind: deep_matrix, depth: 2}
  init: {kind: gaussian, scale: 1e-3}
  optimizer: {kind: gd, lr: 1e-6}
cases:
  - stop: {steps: 100}
  - {stop: {steps: 1000000000000}, dtype: float32}
seeds: 2
record: {points: 10, measures: [nuclear]}
"""


def command(folder, *arguments):
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli.main", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_interrupt_keeps_what_has_ended(tmp_path):
    (tmp_path / "long.yaml").write_text(LONG)
    process = command(tmp_path, "submit", "long.yaml")
    database = tmp_path / "mlflow.db"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (database.exists() and _finished(database) == 2):
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Submit the same grid again to go on" in errors
    assert _finished(database) == 2
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{database}")
    (parent,) = client.search_runs([client.get_experiment_by_name("long").experiment_id], "tags.`orchestrate.kind` = 'sweep'")
    assert parent.info.status == "KILLED"
    again = command(tmp_path, "submit", "long.yaml", "--json", "--set", "stop.steps=100")
    out, _ = again.communicate(timeout=90)
    assert json.loads(out.splitlines()[-1])["reused"] == 2


def _finished(database):
    import sqlite3

    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            query = "select count(*) from runs join tags using (run_uuid) where key = 'orchestrate.kind' and value = 'trial' and status = 'FINISHED'"
            return connection.execute(query).fetchone()[0]
    except sqlite3.Error:
        return 0


def test_two_processes_at_once_leave_one_finished_run_per_trial(tmp_path):
    text = LONG.replace("  - {stop: {steps: 1000000000000}, dtype: float32}\n", "").replace("seeds: 2", "seeds: 6")
    (tmp_path / "grid.yaml").write_text(text)
    processes = [command(tmp_path, "submit", "grid.yaml", "--json") for _ in range(2)]
    outputs = [p.communicate(timeout=120) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    summaries = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    assert sorted(s["reused"] for s in summaries) == [0, 6]
    assert _finished(tmp_path / "mlflow.db") == 6
