"""Whole sweeps on an embedded Ray, read back with a plain MLflow client."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

import orchestrator
from orchestrator.balance import Board
from orchestrator.cluster.connection import Allotment, Cluster, Node
from orchestrator.cluster.workers import RemoteWorker, Workers
from orchestrator.crews import crews_of
from orchestrator.errors import RayUnavailable, StorageUnavailable
from orchestrator.events import Cause, Ended, Lost, Saved
from orchestrator.grid import parse_grid
from orchestrator.plan import PACK_BYTES, Crew, make_plan
from orchestrator.recovery import Recovery
from orchestrator.storage.base import LocalStorage, open_storage
from orchestrator.storage.sweeps import Description, SweepFolder
from orchestrator.sweep import Options, submit
from tests import processes
from tests.held import HeldUntilAsked
from tests.processes import PATIENCE, communicate, eventually, popen
from workloads.engines.calibration import processor
from workloads.recording import Recording
from workloads.results import Finished, HandedOver, Outcome, TrialResult

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
def store(tmp_path_factory, template):
    folder = tmp_path_factory.mktemp("sweeps")
    shutil.copy(template, folder)
    singular = np.ones((4, 4))
    np.savez(folder / "singular.npz", W1=singular, W2=singular)
    return folder


def go(store, text=GRID, **options):
    grid = parse_grid(text, "mixed.yaml", store, options.pop("overrides", ()))
    reporter = Quiet()
    return submit(grid, reporter, Options(tracking_uri=uri(store), storage=str(store / "storage"), workers=2, **options)), reporter


@pytest.fixture(scope="module")
def first(store):
    """The first sweep, on a Ray of its own."""
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


def test_mlflow_has_the_parent_and_every_child(store, client, first, tmp_path):
    parent = client.get_run(first.parent_run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trials"] == 8
    assert parent.data.metrics["failed"] == 2
    assert 0 <= parent.data.metrics["idle_share"] < 1
    assert parent.data.metrics["peak_memory_bytes"] > 50 << 20
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
        factors = load_file(client.download_artifacts(run.info.run_id, "factors.safetensors", str(tmp_path)))
        assert set(factors) == ({"W1", "W2"} if row["factorization.kind"] == "deep_matrix" else {"A1", "A2", "A3"})


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
    assert one.equals(two), "the new sweep's history includes what it reused"


def test_an_extended_grid_runs_only_what_is_new(store, first, cluster_address):
    more, _ = go(store, overrides=["seeds=3"], address=cluster_address)
    assert (more.trials, more.reused) == (12, 6)


def test_asking_for_another_measure_runs_again_and_for_fewer_does_not(store, first, cluster_address):
    wider, _ = go(store, GRID.replace("nuclear,", "nuclear, frobenius,"), address=cluster_address)
    assert wider.reused == 0
    fewer, _ = go(store, GRID.replace("nuclear, ", ""), address=cluster_address)
    assert fewer.reused == 6


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
    command = [sys.executable, "-m", "orchestrator.cli.main", "history", summary.sweep_id, "--format", "csv", "--tracking-uri", uri(store)]
    lines = processes.run(command).stdout.splitlines()
    assert lines[0] == "trial_id,step,loss,entry_0_0,error"
    rows = [line.split(",") for line in lines[1:]]
    assert [int(r[1]) for r in rows] == [0, 1, 10, 100]
    first = w2 @ w1
    assert float(rows[0][3]) == pytest.approx(first[0, 0], rel=1e-12)
    assert float(rows[0][4]) == pytest.approx(np.linalg.norm(first - target) / np.linalg.norm(target), rel=1e-12)


ENDLESS = """
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


def test_a_dead_worker_is_replaced_and_its_pack_goes_on_from_its_checkpoint(tmp_path):
    nothing = Recording((), 0)
    steps = {"endless": 10**12, "quick": 50, "later": 60}
    packs = [replace(make_plan(parse_grid(ENDLESS % s).trials, nothing, "batched", [Crew(1)]).packs[0], name=n) for n, s in steps.items()]
    folder = SweepFolder(open_storage(str(tmp_path)), "x", "y")
    folder.describe(Description("y", "x", "", "", "", {}), {})
    board: Board[Any] = Board(packs, time.monotonic)
    recovery = Recovery(board, folder.checkpoints("r"))
    outcomes: dict[str, set[Outcome]] = {name: set() for name in steps}
    saved, killed, again = 0, set(), []
    with Cluster.connect("local", cpus=1) as cluster, Workers(cluster.crews(1, "auto", 6)) as workers:
        for pack, event in workers.run(board, nothing, {}, folder.keeping("r", 0.1)):
            match event:
                case Finished():
                    outcomes[pack.name] |= {r.outcome for r in event.results}
                case Saved():
                    recovery.saved(pack, event)
                    saved += 1
                case Lost():
                    assert event.cause is Cause.CRASH
                    assert "ActorDiedError" in event.error
                    failed, text = recovery.lost(pack, event)
                    assert not failed
                    assert text == "its worker died: 2 trials are tried again, 2 of them from where they stood"
                    # Not again: it would never end.
                    again = [board.take("nobody", "cpu")]
                    board.ended("nobody")
                case Ended():
                    recovery.ended(pack)
            if not killed and saved:
                killed.update(_processes("ray::RemoteWorker"))
                assert len(killed) == 1
                os.kill(*killed, signal.SIGKILL)
    assert outcomes == {"endless": set(), "quick": {Outcome.EXHAUSTED}, "later": {Outcome.EXHAUSTED}}
    assert [trial.step > 0 for trial in again[0].trials] == [True, True]


UNEQUAL = """
name: unequal
fixed:
  optimizer: {kind: group_rmsprop, lr: 1e-4}
  init: {kind: gaussian, scale: 0.1}
cases:
  - problem: {kind: matrix_completion, shape: [12, 12], target: {rank: 1}, observed: 60}
    factorization: {kind: deep_matrix, depth: 3}
  - problem: {kind: tensor_completion, shape: [6, 6, 6], target: {rank: 1}, observed: 100}
    factorization: {kind: cp}
    loss: mse
zip: {seed: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23],
      stop.steps: [90000, 10, 1000, 50000, 10, 100, 90000, 10, 60000, 10, 1000, 50000,
                   10, 70000, 10, 90000, 1000, 50000, 10, 100, 80000, 10, 90000, 20000]}
record: {points: 10, measures: []}
"""


def test_a_trial_has_the_same_bits_whoever_trains_it():
    grid, recording = parse_grid(UNEQUAL), Recording((), 10)
    # One pack for each case, whatever the number of workers: the others have to be given theirs.
    packs = make_plan(grid.trials, recording, "fused", [Crew(1)]).packs
    assert len(packs) == 2
    seen: list[dict[str, TrialResult]] = []
    given = 0
    with Cluster.connect("local", cpus=4) as cluster:
        # With others beside it, a worker has half of its first pack to give: it trains nothing before it is asked for it.
        for count, kind in ((1, RemoteWorker), (4, HeldUntilAsked)):
            results: dict[str, TrialResult] = {}
            with Workers(cluster.crews(1, 0, 48, workers=count), worker=kind) as workers:
                board: Board[Any] = Board(packs, time.monotonic)
                for _, event in workers.run(board, recording, {}):
                    if isinstance(event, Finished):
                        assert not results.keys() & {r.trial_id for r in event.results}
                        results |= {r.trial_id: r for r in event.results}
                    given += isinstance(event, HandedOver) and len(event.trials)
            seen.append(results)
    one, many = seen
    assert given, "nothing was handed over"
    assert one.keys() == many.keys() == {t.trial_id for t in grid.trials}
    for key, result in one.items():
        assert (result.outcome, result.steps) == (many[key].outcome, many[key].steps)
        np.testing.assert_array_equal(result.trace.steps, many[key].trace.steps)
        np.testing.assert_array_equal(result.trace.values[:, 0], many[key].trace.values[:, 0])
        for name, factor in result.factors.items():
            np.testing.assert_array_equal(factor, many[key].factors[name])


def test_logical_gpus_are_shared_and_the_cores_that_are_left_work_too(tmp_path, monkeypatch):
    # The paths of Ray's sockets would be too long in here.
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with Cluster.connect("local", cpus=6, gpus=1) as cluster:
        assert (cluster.cpus, cluster.gpus) == (6, 1)
        assert cluster.crews(1, "auto", 100) == [(Allotment(1, 0.25), 4), (Allotment(1, 0), 2)]
        assert cluster.crews(1, "auto", 100, large=True) == [(Allotment(1, 1), 1), (Allotment(1, 0), 5)]
        assert cluster.crews(1, 0.5, 100) == [(Allotment(1, 0.5), 2)]
        assert cluster.crews(2, 0, 100) == [(Allotment(2, 0), 3)]
        assert cluster.crews(1, "auto", 3) == [(Allotment(1, 0.25), 3), (Allotment(1, 0), 2)]
        hired = cluster.crews(1, "auto", 100, workers=2)
        assert hired == [(Allotment(1, 0.25), 2), (Allotment(1, 0), 2)]
        with Workers(hired) as workers:
            assert workers.machines(PATIENCE)
            # Two of them were given a share of the GPU, though torch sees none here and says so: they are cores like the others.
            (crew,) = crews_of(workers, hired, cluster)
            assert (crew.workers, crew.device, crew.memory) == (4, "cpu", PACK_BYTES)
            assert crew.rates.source == f"measured on {processor()}"


def test_workers_of_a_mixed_cluster_are_counted_node_by_node():
    mixed = Cluster("somewhere", [Node(16, 2), Node(8, 0), Node(1, 4)])
    assert mixed.crews(1, "auto", 1000) == [(Allotment(1, 0.25), 9), (Allotment(1, 0), 16)]
    assert mixed.crews(1, "auto", 1000, large=True) == [(Allotment(1, 1), 3), (Allotment(1, 0), 22)]
    assert mixed.crews(4, 1, 1000) == [(Allotment(4, 1), 2)], "the third node has GPUs but too few cores"
    assert mixed.crews(1, "auto", 5) == [(Allotment(1, 0.25), 5), (Allotment(1, 0), 5)]
    assert mixed.crews(0.5, 0, 1000) == [(Allotment(0.5, 0), 50)]
    with pytest.raises(RayUnavailable, match="no single node"):
        mixed.crews(20, 0, 10)
    with pytest.raises(RayUnavailable, match=r"resources.gpus asks for 7 a pack"):
        mixed.crews(1, 7, 10)


def _processes(title):
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        # It may end while it is looked at.
        with suppress(psutil.Error):
            if title in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


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
resources: {engine: batched}
"""


def command(folder, *arguments):
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    program = [sys.executable, "-m", "orchestrator.cli.main", *arguments]
    return popen(program, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_an_interrupt_keeps_what_has_ended(tmp_path, cluster_address):
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
    options = Options(cluster_address, f"sqlite:///{database}", str(tmp_path / "state" / "orchestrate" / "storage"))
    assert submit(grid, Quiet(), options).reused == 2


def _finished(database):
    import sqlite3

    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            query = "select count(*) from runs join tags using (run_uuid) where key = 'orchestrate.kind' and value = 'trial' and status = 'FINISHED'"
            return connection.execute(query).fetchone()[0]
    except sqlite3.Error:
        return 0


def test_two_processes_at_once_leave_one_finished_run_per_trial(tmp_path, cluster_address):
    text = LONG.replace("  - {stop: {steps: 1000000000000}, dtype: float32}\n", "").replace("seeds: 2", "seeds: 6")
    (tmp_path / "grid.yaml").write_text(text)
    processes = [command(tmp_path, "submit", "grid.yaml", "--json", "--address", cluster_address, "--workers", "1") for _ in range(2)]
    outputs = [communicate(p) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    summaries = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    assert sorted(s["reused"] for s in summaries) == [0, 6]
    assert _finished(tmp_path / "mlflow.db") == 6
