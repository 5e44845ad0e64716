"""Sweeps on a cluster of several nodes on this machine, which commands join as drivers: another sweep wants its share, a node dies."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clusters import local_cluster, no_network_cluster, scaling_cluster
from tests.forked import PROGRAM, Forked
from tests.held import GATE, LONG
from tests.processes import communicate, eventually

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
HELD = "tests.held"
SHORT = LONG.replace("long", "short").replace("20000", "200").replace("seeds: 4", "seeds: 5")


@pytest.fixture(scope="module")
def cluster():
    with local_cluster(nodes=2) as cluster:
        yield cluster


class Work:
    """A folder with a store and a storage of its own, and the commands that work there."""

    def __init__(self, folder, template):
        self.folder, self.gate = folder, folder / "gate"
        shutil.copy(template, folder)
        (folder / "long.yaml").write_text(LONG)
        (folder / "short.yaml").write_text(SHORT)

    def start(self, name, *arguments, held=False):
        arguments += ("--tracking-uri", f"sqlite:///{self.folder}/mlflow.db")
        environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(self.folder / "state"), "OMP_NUM_THREADS": "1"}
        environment |= {GATE: str(self.gate)} if held else {}
        with (self.folder / f"{name}.log").open("w") as log:
            return Forked(arguments, module=HELD if held else PROGRAM, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def end(self, process, name):
        communicate(process)
        assert process.returncode == 0, self.said(name)

    def said(self, name):
        return (self.folder / f"{name}.log").read_text()

    def start_and_hold(self, name, cluster):
        """Submit the long sweep, and wait until each of its two packs is held after its first checkpoint."""
        sweep = self.start(name, "submit", "long.yaml", "--checkpoint-every", "0.1", "--address", cluster.gcs_address, held=True)

        def held():
            assert sweep.poll() is None, self.said(name)
            return len(list(self.folder.glob("state/**/checkpoints/*.safetensors"))) == 2

        eventually(held, lambda: self.said(name))
        return sweep

    def outcomes(self, experiment):
        """What became of each trial of a sweep: outcome, steps and final measures by trial."""
        self.end(self.start("runs", "runs", experiment, "--format", "json"), "runs")
        rows = json.loads(self.said("runs"))
        return {row["trial_id"]: (row["outcome"], row["steps"], row["loss"], row["nuclear"]) for row in rows}


@pytest.fixture
def work(tmp_path, template):
    return Work(tmp_path, template)


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory, template):
    """The outcomes of a sweep that is alone, and of which nothing dies."""
    work = Work(tmp_path_factory.mktemp("undisturbed"), template)
    work.end(work.start("long", "submit", "long.yaml", "--address", cluster.gcs_address), "long")
    return work.outcomes("long")


def test_the_cluster_itself_loses_a_node_and_gets_another(cluster):
    import ray

    ray.init(address=cluster.gcs_address, log_to_driver=False)
    try:
        assert ray.cluster_resources()["CPU"] == 2
        cluster.kill_node(1)
        eventually(lambda: sum(node["Alive"] for node in ray.nodes()) == 1, ray.nodes)
        cluster.start_node()
        assert sum(node["Alive"] for node in ray.nodes()) == 2
    finally:
        ray.shutdown()


def test_a_second_sweep_has_its_share_at_once_and_the_first_loses_nothing(cluster, work, undisturbed):
    first = work.start_and_hold("long", cluster)
    work.end(work.start("short", "submit", "short.yaml", "--address", cluster.gcs_address), "short")
    assert first.poll() is None, "the second did not wait for the first"
    work.gate.touch()
    work.end(first, "long")
    assert "another sweep shares the cluster: going on with 1 of 2 workers" in work.said("long")
    assert "its cores went to another sweep: 4 trials wait, 4 of them where they stood" in work.said("long")
    assert work.outcomes("long") == undisturbed
    assert [row[:2] for row in undisturbed.values()] == [("exhausted", 20_000)] * 8
    assert len(work.outcomes("short")) == 10


def test_a_node_dies_and_all_trials_end_with_the_same_bits(cluster, work, undisturbed):
    sweep = work.start_and_hold("long", cluster)
    cluster.kill_node(1)
    # Before, a worker whose node is gone might train to the end: it outlives it a little.
    eventually(lambda: re.search("its node was lost|its worker died", work.said("long")), lambda: work.said("long"))
    work.gate.touch()
    work.end(sweep, "long")
    cluster.start_node()
    assert "raylet" not in work.said("long")
    assert work.outcomes("long") == undisturbed


@pytest.mark.slow
@pytest.mark.skipif(bool(no_network_cluster()), reason=no_network_cluster() or "can run")
def test_a_cluster_that_scales_is_waited_for(tmp_path):
    (tmp_path / "long.yaml").write_text(LONG.replace("20000", "400000"))
    with scaling_cluster(most=2) as cluster:
        process = [sys.executable, "-m", "orchestrator.cli.main", "submit", "long.yaml", "--address", "auto", "--json", "--workers", "3"]
        # By the cluster's folder Ray knows which of a machine's clusters is meant.
        environment = {
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "OMP_NUM_THREADS": "1",
            "RAY_TMPDIR": str(cluster.folder),
        }
        done = cluster.run(process, namespace="head", cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        assert "the cluster scales: asking it for 3 workers, which come up one by one" in done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["exhausted"] == 8
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
        communicate(greedy)
        assert greedy.returncode == 130
