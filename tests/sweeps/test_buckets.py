"""A sweep whose data file, checkpoints and MLflow artifacts are in a bucket, and whose workers all die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import orchestrator
from tests.processes import communicate, eventually, popen
from tests.servers import bucket_server, mlflow_server, no_postgresql

ROOT = Path(__file__).parents[2]
GRID = """
name: bucket
fixed:
  problem: {kind: matrix_completion, shape: [6, 6], file: "s3://bucket/data/target.csv"}
  init: {kind: gaussian, scale: 0.1}
  optimizer: {kind: gd, lr: 1e-6}
  stop: {steps: 2_000_000}
grid:
  # A pack for each worker.
  factorization: [{kind: deep_matrix, depth: 2}, {kind: deep_matrix, depth: 3}]
seeds: 4
record: {points: 30, measures: [nuclear]}
figures:
  norms: {kind: trajectories, x: step, y: nuclear}
"""


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The files of a bucket."""
    pytest.importorskip("s3fs")
    import fsspec

    with bucket_server(tmp_path) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield fsspec.filesystem("s3", skip_instance_cache=True)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.server
@pytest.mark.skipif(bool(no_postgresql()), reason=no_postgresql() or "can run")
def test_all_is_in_a_bucket_and_outlives_the_death_of_every_worker(bucket, database, tmp_path, monkeypatch):
    bucket.pipe_file("bucket/data/target.csv", "".join(f"{i},{j},{(i + 1) * (j - 3) / 8}\n" for i in range(6) for j in range(6)).encode())
    (tmp_path / "grid.yaml").write_text(GRID)
    with mlflow_server(tmp_path, database, password=True, artifacts="s3://bucket/mlflow", settings=dict(os.environ)) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        options = ("--storage", "s3://bucket/sweeps", "--checkpoint-every", "0.5", "--json")
        command = [sys.executable, "-m", "orchestrator.cli.main", "submit", "grid.yaml", *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path / "state")}
        sweep = popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

        def saved():
            assert sweep.poll() is None, communicate(sweep)
            bucket.invalidate_cache()
            return len([name for name in bucket.find("bucket/sweeps") if "/checkpoints/" in name]) == 2

        eventually(saved)
        workers = [p for p in psutil.Process(sweep.pid).children(recursive=True) if "RemoteWorker" in " ".join(p.cmdline())]
        assert workers
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
        out, errors = communicate(sweep)
        assert sweep.returncode == 0, errors
        assert errors.count("4 trials are tried again, 4 of them from where they stood") == 2
        summary = json.loads(out.splitlines()[-1])
        assert summary["exhausted"] == 8

        assert len(orchestrator.load_runs(summary["sweep_id"], tracking_uri=server.uri)) == 8
        history = orchestrator.load_history(summary["sweep_id"], tracking_uri=server.uri)
        assert history.groupby("trial_id").step.max().tolist() == [2_000_000] * 8
        bucket.invalidate_cache()
        assert [name for name in bucket.find("bucket/mlflow") if name.endswith("norms.svg")], "figures are in the bucket"
        assert bucket.find("bucket/sweeps") == [], "nothing waits any more"
