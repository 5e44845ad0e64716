"""Whole sweeps on an embedded Ray, read back with a plain MLflow client."""

from __future__ import annotations

import json
import os
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import orchestrator
from orchestrator.cluster.pool import Workers
from orchestrator.errors import RayUnavailable, StorageUnavailable
from orchestrator.grid import parse_grid
from orchestrator.options import Options
from orchestrator.storage.base import LocalStorage
from orchestrator.sweeps.submit import submit
from orchestrator.tracking.write.writer import SweepWriter
from tests import forked
from tests.forked import Forked
from tests.processes import communicate, eventually
from workloads.engines.calibration import processor

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
  - problem: {kind: matrix_completion, shape: [4, 4], target: {rank: 1, frobenius: 2}, observed: 9}
    factorization: {kind: deep_matrix, depth: 2}
    init: {kind: file, file: singular.npz, det_sign: positive}
seeds: 2
record: {points: 20, measures: [error, nuclear, components]}
"""
FAILING = "  - problem" + "  - problem".join(GRID[: GRID.index("seeds: 2")].split("  - problem")[-2:])
"""Two cases, each of them one trial: they draw nothing."""


class Quiet:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.notes, self.state = [], None

    def note(self, text):
        self.notes.append(text)

    def update(self, state):
        self.state = state


@pytest.fixture(scope="module")
def store(tmp_path_factory, template):
    folder = tmp_path_factory.mktemp("sweeps")
    shutil.copy(template, folder)
    singular = np.ones((4, 4))
    np.savez(folder / "singular.npz", W1=singular, W2=singular)
    return folder


def go(store, text=GRID, **options):
    grid = parse_grid(text, "mixed.yaml", store, options.pop("overrides", ()))
    reporter = Quiet()
    options = {"tracking_uri": uri(store), "storage": str(store / "storage"), "workers": 1, **options}
    return submit(grid, reporter, Options(**options)), reporter


@pytest.fixture(scope="module")
def first(store):
    """The first sweep, on a Ray of its own."""
    return go(store, workers=2)[0]


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


def test_mlflow_has_the_parent_and_every_child(store, client, first, tmp_path):
    parent = client.get_run(first.parent_run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["sweep/trials"] == 8
    assert parent.data.metrics["sweep/failed"] == 2
    assert 0 <= parent.data.metrics["sweep/idle_share"] < 1
    assert parent.data.metrics["sweep/peak_memory_bytes"] > 50 << 20
    names = {a.path for a in client.list_artifacts(first.parent_run_id)}
    assert {"grid.yaml", "plan.json", "trials.parquet", "traces"} <= names
    runs = children(client, first)
    assert sorted(r.data.tags["orchestrate.outcome"] for r in runs).count("failed") == 2
    frame = orchestrator.load_runs(first.sweep_id, tracking_uri=uri(store))
    history = orchestrator.load_history(first.sweep_id, tracking_uri=uri(store))
    factors = orchestrator.load_factors(first.sweep_id, tracking_uri=uri(store))
    assert len(runs) == len(frame) == 8
    for run in runs:
        row = frame[frame.run_id == run.info.run_id].iloc[0]
        failed = row.outcome == "failed"
        assert run.info.status == ("FAILED" if failed else "FINISHED")
        assert run.data.params["optimizer.lr"] == str(row["optimizer.lr"])
        if failed:
            assert "determinant of the initial product is zero" in run.data.tags["mlflow.note.content"]
            continue
        assert run.data.tags["orchestrate.engine"] == "fused"
        assert run.data.tags["orchestrate.device"] == processor()
        trace = history[history.trial_id == row.trial_id]
        assert trace.step.iloc[0] == 0
        assert trace.step.iloc[-1] == row.steps
        points = client.get_metric_history(run.info.run_id, "loss")
        assert len(points) <= 31
        assert points[-1].step == row.steps
        if row.outcome != "diverged":
            assert run.data.metrics["error"] == trace.error.iloc[-1] == row["error"]
        assert set(factors[row.trial_id]) == ({"W1", "W2"} if row["factorization.kind"] == "deep_matrix" else {"A1", "A2", "A3"})


def test_traces_are_parquet_files_of_the_parent(client, first, tmp_path):
    folder = Path(client.download_artifacts(first.parent_run_id, "traces", str(tmp_path)))
    table = pq.read_table(sorted(folder.glob("*.parquet"))[0])
    assert {"trial_id", "step", "loss"} <= set(table.column_names)


def test_submitting_again_runs_only_what_failed(store, client, first, cluster_address):
    before = {r.info.run_id for r in children(client, first)}
    ever = {r.info.run_id for r in client.search_runs([client.get_experiment_by_name("mixed").experiment_id], max_results=1000)}
    again, reporter = go(store, address=cluster_address)
    assert (again.reused, again.failed) == (6, 2)
    assert "6 of 8 trials are in MLflow already and are reused" in reporter.notes
    assert len(children(client, again)) == 2
    assert {r.info.run_id for r in children(client, first)} == before
    runs = orchestrator.load_runs(again.sweep_id, tracking_uri=uri(store))
    assert len(runs) == 8
    assert set(runs[runs.outcome != "failed"].run_id) <= ever
    one, two = (orchestrator.load_history(s.sweep_id, tracking_uri=uri(store)) for s in (first, again))
    # Of a sweep that was asked for another measure there is a column more.
    assert one.equals(two[one.columns]), "the new sweep's history includes what it reused"


def test_an_extended_grid_runs_only_what_is_new(store, first, cluster_address):
    more, _ = go(store, overrides=["seeds=3"], address=cluster_address)
    assert (more.trials, more.reused) == (11, 6)


def test_asking_for_another_measure_runs_again_and_for_fewer_does_not(store, first, cluster_address):
    wider, _ = go(store, GRID.replace("nuclear,", "nuclear, frobenius,"), address=cluster_address)
    assert wider.reused == 0
    # Without the trials that fail, which are tried again, nothing is left to do.
    fewer, _ = go(store, GRID.replace("nuclear, ", "").replace(FAILING, ""), address=cluster_address)
    assert (fewer.trials, fewer.reused) == (6, 6)


def test_fresh_runs_everything(store, first, cluster_address):
    assert go(store, fresh=True, address=cluster_address)[0].reused == 0


def test_asking_for_more_than_the_cluster_has_is_an_error_at_once(store, client, first, cluster_address):
    count = len(client.search_runs([client.get_experiment_by_name("mixed").experiment_id]))
    with pytest.raises(RayUnavailable, match="asks for 1e\\+06 a pack"):
        go(store, GRID + "resources: {cpus: 1e6}\n", address=cluster_address)
    with pytest.raises(RayUnavailable, match=r"resources.gpus asks for 64 a pack"):
        go(store, GRID + "resources: {gpus: 64}\n", address=cluster_address)
    assert len(client.search_runs([client.get_experiment_by_name("mixed").experiment_id])) == count


def test_a_storage_that_fills_up_before_the_sweep_begins_keeps_nothing_of_it(store, client, first, cluster_address, monkeypatch):
    write = LocalStorage.write

    def full(self, name, content):
        if "/files/" in name:
            raise StorageUnavailable(f"cannot write {name}: no space left")
        write(self, name, content)

    monkeypatch.setattr(LocalStorage, "write", full)
    text = GRID.replace("name: mixed", "name: unlucky").replace("0.05", "0.04")
    with pytest.raises(StorageUnavailable, match="no space left"):
        go(store, text, address=cluster_address)
    assert not (store / "storage" / "unlucky").exists()
    assert client.get_experiment_by_name("unlucky") is None


def test_steps_asked_for_come_back_from_files(store, cluster_address):
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
        address=cluster_address,
    )
    arguments = ["history", summary.sweep_id, "--format", "csv", "--tracking-uri", uri(store)]
    lines = forked.run(arguments, cwd=store, env=os.environ).stdout.splitlines()
    assert lines[0] == "trial_id,step,loss,entry_0_0,error"
    rows = [line.split(",") for line in lines[1:]]
    assert [int(r[1]) for r in rows] == [0, 1, 10, 100]
    first = w2 @ w1
    assert float(rows[0][3]) == pytest.approx(first[0, 0], rel=1e-12)
    assert float(rows[0][4]) == pytest.approx(np.linalg.norm(first - target) / np.linalg.norm(target), rel=1e-12)


LONG = """
name: long
fixed:
  problem: {kind: matrix_completion, shape: [2, 2], entries: [[0, 1, 1.0], [1, 1, 0.5]]}
  factorization: {kind: deep_matrix, depth: 2}
  init: {kind: gaussian, scale: 1e-3}
  optimizer: {kind: gd, lr: 1e-6}
cases:
  - stop: {steps: 100}
  - {stop: {steps: 1000000000000}, dtype: float32, init.kind: identity}
seeds: 2
record: {points: 10, measures: [nuclear]}
resources: {engine: batched}
"""
"""Two trials that end at once and one that does not: a pack of several could be split, and take all workers."""


def command(folder, *arguments):
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return Forked(arguments, cwd=folder, env=environment)


def test_an_interrupt_keeps_what_has_ended(tmp_path, template, cluster_address):
    shutil.copy(template, tmp_path)
    (tmp_path / "long.yaml").write_text(LONG)
    process = command(tmp_path, "submit", "long.yaml")
    database = tmp_path / "mlflow.db"
    eventually(lambda: process.poll() is not None or _finished(database) == 2)
    process.send_signal(signal.SIGINT)
    _, errors = communicate(process)
    assert process.returncode == 130
    assert "submit the same grid again" in errors
    assert _finished(database) == 2
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{database}")
    (parent,) = client.search_runs([client.get_experiment_by_name("long").experiment_id], "tags.`orchestrate.kind` = 'sweep'")
    assert parent.info.status == "KILLED"
    grid = parse_grid(LONG, "long.yaml", tmp_path, ("stop.steps=100",))
    options = Options(cluster_address, f"sqlite:///{database}", str(tmp_path / "state" / "orchestrate" / "storage"), workers=1)
    assert submit(grid, Quiet(), options).reused == 2


@pytest.mark.parametrize("gone", [False, True])
def test_ray_is_left_before_the_rest_is_written(tmp_path, template, cluster_address, monkeypatch, gone):
    """It ends a process whose raylet is gone, after a while that MLflow may take longer than."""
    import ray

    shutil.copy(template, tmp_path)
    connected = []
    close, run = SweepWriter.close, Workers.run

    def seen(writer, *given):
        connected.append(ray.is_initialized())
        return close(writer, *given)

    def ended(workers, *given, **options):
        yield from run(workers, *given, **options)
        if gone:
            raise RayUnavailable("Ray's raylet on this machine is gone")

    monkeypatch.setattr(SweepWriter, "close", seen)
    monkeypatch.setattr(Workers, "run", ended)
    grid = parse_grid(LONG, "long.yaml", tmp_path, ("stop.steps=100",))
    options = Options(cluster_address, f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "storage"), workers=1)
    with pytest.raises(RayUnavailable) if gone else nullcontext():
        submit(grid, Quiet(), options)
    assert connected == [False]


def _finished(database):
    import sqlite3

    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            query = "select count(*) from runs join tags using (run_uuid) where key = 'orchestrate.kind' and value = 'trial' and status = 'FINISHED'"
            return connection.execute(query).fetchone()[0]
    except sqlite3.Error:
        return 0


def test_two_processes_at_once_leave_one_finished_run_per_trial(tmp_path, template, cluster_address):
    shutil.copy(template, tmp_path)
    text = LONG.replace("  - {stop: {steps: 1000000000000}, dtype: float32, init.kind: identity}\n", "").replace("seeds: 2", "seeds: 6")
    (tmp_path / "grid.yaml").write_text(text)
    processes = [command(tmp_path, "submit", "grid.yaml", "--json", "--address", cluster_address, "--workers", "1") for _ in range(2)]
    outputs = [communicate(p) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    summaries = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    assert sorted(s["reused"] for s in summaries) == [0, 6]
    assert _finished(tmp_path / "mlflow.db") == 6
