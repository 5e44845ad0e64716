"""Sweeps on a cluster of several nodes on this machine, which commands join as drivers: another sweep wants its share, a node dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.clusters import local_cluster, no_network_cluster, scaling_cluster

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[1]
LONG = """
name: long
fixed:
  problem: {kind: matrix_completion, target: {rank: 1, frobenius: 8}, observed: 40}
  factorization: {kind: deep_matrix, depth: 3}
  init: {kind: gaussian, scale: 1e-2}
  optimizer: {kind: gd, lr: 1e-5}
  stop: {steps: 400000}
grid:
  problem.shape: [[7, 7], [8, 8], [9, 9]]
seeds: 4
record: {points: 20, measures: [nuclear]}
resources: {engine: batched}
"""
SHORT = LONG.replace("long", "short").replace("400000", "200").replace("seeds: 4", "seeds: 5")


@pytest.fixture(scope="module")
def cluster():
    with local_cluster(nodes=3) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all commands of these tests work: one store, one storage."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "long.yaml").write_text(LONG)
    (folder / "short.yaml").write_text(SHORT)
    return folder


def command(folder, name, *arguments, **options):
    process = [sys.executable, "-m", "orchestrator.cli.main", *arguments, "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder / "state"), "OMP_NUM_THREADS": "1"}
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen(process, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True)


def said(folder, name):
    return (folder / f"{name}.log").read_text()


def await_words(process, folder, name, words, seconds=60):
    until = time.monotonic() + seconds
    while words not in said(folder, name):
        assert process.poll() is None, said(folder, name)
        assert time.monotonic() < until, said(folder, name)
        time.sleep(0.1)


def outcomes(folder, sweep):
    """What became of each trial of a sweep: outcome, steps and final measures by trial."""
    assert command(folder, "runs", "runs", sweep, "--format", "json").wait(60) == 0, said(folder, "runs")
    rows = json.loads(said(folder, "runs"))
    return {row["trial_id"]: (row["outcome"], row["steps"], row["loss"], row["nuclear"]) for row in rows}


def test_a_second_sweep_has_its_share_at_once_and_the_first_loses_nothing(cluster, folder):
    address = ("--address", cluster.gcs_address)
    first = command(folder, "long", "submit", "long.yaml", *address)
    await_words(first, folder, "long", "trials to run")
    time.sleep(4)
    second = command(folder, "short", "submit", "short.yaml", *address)
    assert second.wait(60) == 0, said(folder, "short")
    assert first.poll() is None, "the second did not wait for the first"
    assert first.wait(120) == 0, said(folder, "long")
    assert "another sweep shares the cluster: going on with 2 of 3 workers" in said(folder, "long")
    assert "its cores went to another sweep: 4 trials wait, 4 of them where they stood" in said(folder, "long")
    found = outcomes(folder, "long")
    assert [row[:2] for row in found.values()] == [("exhausted", 400_000)] * 12
    assert len(outcomes(folder, "short")) == 15


def test_a_node_dies_and_all_trials_end_with_the_same_bits(cluster, folder):
    before = outcomes(folder, "long")
    first = command(folder, "again", "submit", "long.yaml", "--fresh", "--checkpoint-every", "1", "--address", cluster.gcs_address)
    await_words(first, folder, "again", "trials to run")
    time.sleep(5)
    cluster.kill_node(1)
    assert first.wait(120) == 0, said(folder, "again")
    assert "its node was lost" in said(folder, "again") or "its worker died" in said(folder, "again")
    assert "raylet" not in said(folder, "again")
    assert outcomes(folder, "long") == before


@pytest.mark.slow
@pytest.mark.skipif(bool(no_network_cluster()), reason=no_network_cluster() or "can run")
def test_a_cluster_that_scales_is_waited_for(tmp_path):
    (tmp_path / "long.yaml").write_text(LONG)
    with scaling_cluster(most=2) as cluster:
        process = [sys.executable, "-m", "orchestrator.cli.main", "submit", "long.yaml", "--address", "auto", "--json", "--workers", "3"]
        # By the cluster's folder Ray knows which of a machine's clusters is meant.
        environment = {
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "OMP_NUM_THREADS": "1",
            "RAY_TMPDIR": str(cluster.folder),
        }
        done = cluster.run(process, namespace="head", cwd=tmp_path, env=environment, timeout=180)
        assert done.returncode == 0, done.stderr
        assert "the cluster scales: asking it for 3 workers, which come up one by one" in done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["exhausted"] == 12
        nodes = "import ray; ray.init('auto', logging_level='ERROR'); print(len([n for n in ray.nodes() if n['Alive']]))"
        counted = cluster.run([sys.executable, "-c", nodes], namespace="head", env={"RAY_TMPDIR": str(cluster.folder)})
        assert counted.stdout.split()[-1] == "3", counted.stderr
        # Nothing like it can come up: it says so, and waits.
        greedy = cluster.popen(
            [*process, "--fresh", "--set", "resources.cpus=64"],
            namespace="head",
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        said = ""
        while "waiting for 64 cores" not in said:
            line = greedy.stderr.readline()
            assert line, said
            said += line
        greedy.terminate()
        assert greedy.wait(60) == 130
