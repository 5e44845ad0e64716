"""What is said of a cluster's nodes, and what they find."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace

import pytest
import ray

from orchestrator.cluster import probe
from orchestrator.cluster.nodes import NodeReport, _timed
from orchestrator.diagnosis.cluster import EXPERIMENT, SHOWN, check_cluster, judged
from tests.processes import run

HERE = {"Python": "3.11.7", "orchestrate": "1.0", "torch": "2.13.0", "mlflow": ""}
ASKED = {"storage": "/shared", "store": "http://u:secret@mlflow:5000"}
FOUND = {"versions": HERE, "cores": 8, "gpus": [["H200", 1 << 30, 2 << 30]] * 2, "storage": "", "shared": True, "mlflow": ""}
GOOD = NodeReport("a1", "10.0.0.7 (n7)", 2.0, FOUND)


def told(*nodes):
    return [(check.name, check.ok, check.found) for check in judged(nodes, ASKED, HERE)]


def test_where_all_is_well_a_line_says_so_for_each_thing():
    assert told(GOOD, replace(GOOD, gpus=0.0)) == [
        ("nodes", True, "all 2 answer"),
        ("versions", True, "as here on every node"),
        ("gpus", True, "torch sees H200 (2 GiB), H200 (2 GiB), H200 (2 GiB), H200 (2 GiB); Ray offers 2 of them: start it with --num-gpus"),
        ("storage", True, "every node reads and writes /shared"),
        ("mlflow", True, "every node reaches http://u:***@mlflow:5000 and uploads to it"),
        ("clocks", True, "within 10 s of this machine's"),
    ]


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        ({"failure": "has not answered for 120 s"}, "nodes", "has not answered"),
        ({"ahead": 75.0}, "clocks", "its clock is 75 s ahead of this machine's"),
        ({"ahead": -3600.0}, "clocks", "its clock is 3600 s behind this machine's"),
        ({"gpus": 3.0}, "gpus", "Ray offers 3 GPUs, torch sees 2"),
        ({"found": FOUND | {"gpus": "No module named 'torch'"}}, "gpus", "torch sees no GPU: No module named 'torch'"),
        ({"found": FOUND | {"versions": HERE | {"torch": "2.4.0"}}}, "versions", "torch 2.4.0, here 2.13.0; install there"),
        ({"found": FOUND | {"versions": HERE | {"orchestrate": ""}}}, "versions", "orchestrate missing; install there"),
        ({"found": FOUND | {"storage": "cannot write /shared: Read-only file system"}}, "storage", "Read-only file system"),
        ({"found": FOUND | {"mlflow": "refused at http://u:secret@mlflow:5000"}}, "mlflow", "refused at http://u:***@mlflow:5000"),
    ],
)
def test_what_is_wrong_on_one_node_is_said_of_it_alone(change, name, words):
    wrong = [(check, found) for check, ok, found in told(GOOD, replace(GOOD, name="10.0.0.8 (n8)", **change)) if not ok]
    ((check, found),) = wrong
    assert check == name
    assert found.startswith("10.0.0.8 (n8): ")
    assert words in found
    assert "secret" not in found


def test_a_node_that_does_not_see_the_folder_is_served_by_the_driver():
    apart = replace(GOOD, found=FOUND | {"shared": False})
    assert ("storage", True) in [
        (name, ok) for name, ok, found in told(GOOD, apart) if found.startswith("1 of 2 nodes does not see /shared")
    ]


def test_of_many_nodes_some_are_named():
    lines = told(*[replace(GOOD, ahead=100.0)] * (SHOWN + 5))
    assert lines[-1] == ("clocks", False, "and so on: 5 more nodes")
    assert sum(not ok for _, ok, _ in lines) == SHOWN + 1


def test_a_node_without_this_package_says_what_it_lacks(tmp_path):
    ray.cloudpickle.register_pickle_by_value(probe)
    (tmp_path / "look").write_bytes(ray.cloudpickle.dumps(probe.look))
    program = (
        "import json, pathlib, pickle, sys; sys.modules['orchestrator'] = None; "
        "look = pickle.loads(pathlib.Path('look').read_bytes()); "
        "print(json.dumps(look({'gpus': 1, 'name': 'n', 'storage': '/shared', 'folder': 'f'})))"
    )
    found = json.loads(run([sys.executable, "-c", program], cwd=tmp_path).stdout)
    assert found["versions"]["ray"] == ray.__version__
    assert found["gpus"] == [], "asked of torch, since Ray offers one"
    assert "orchestrator" in found["storage"]


@pytest.mark.ray
@pytest.mark.server
def test_every_node_tries_storage_and_store(cluster_address, server, tmp_path):
    from mlflow import MlflowClient

    checks = list(check_cluster(cluster_address, server, str(tmp_path / "storage")))
    assert [(check.name, check.ok) for check in checks] == [
        *(("ray", True), ("nodes", True), ("versions", True), ("gpus", True), ("storage", True), ("mlflow", True), ("clocks", True))
    ], checks
    assert not (tmp_path / "storage").exists()
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    assert client.search_runs([experiment]) == []
    (deleted,) = client.search_runs([experiment], run_view_type=2)
    assert len(client.list_artifacts(deleted.info.run_id)) == 1, "a file of the one node"


@pytest.mark.ray
def test_a_storage_that_cannot_be_used_is_a_line_and_the_others_are_tried(cluster_address, tmp_path):
    (tmp_path / "file").touch()
    checks = list(check_cluster(cluster_address, f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "file")))
    assert [check.name for check in checks if not check.ok] == ["storage"]
    assert checks[-1].name == "clocks"


@pytest.mark.ray
def test_clocks_are_compared(cluster_address):
    ray.init(address=cluster_address, log_to_driver=False)
    try:
        assert _timed(GOOD, ray.remote(lambda: time.time())).ahead == 0.0
        for seconds in (500.0, -500.0):
            ahead = _timed(GOOD, ray.remote(lambda seconds=seconds: time.time() + seconds)).ahead
            assert ahead == pytest.approx(seconds, abs=30.0)
    finally:
        ray.shutdown()
