"""What is used of Ray's private interfaces is there, and means what we take it to mean: says what broke when Ray changes."""

from __future__ import annotations

import inspect
import signal
import sys
from pathlib import Path

import pytest
import ray

from orchestrator.cluster import private
from orchestrator.cluster.connection import Cluster
from tests import processes

SOURCE = Path(inspect.getfile(private)).read_text()


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("ray._raylet.Config", "initialize"),
        ("ray._raylet", "GcsClient"),
        ("ray._private.services", "canonicalize_bootstrap_address"),
        ("ray._raylet.AuthenticationTokenLoader", "instance"),
        ("ray._private.utils", "set_sigterm_handler"),
        ("ray._private.utils", "get_dashboard_dependency_error"),
        ("ray._private.node.Node", "start_api_server"),
        ("ray._private.node.Node", "start_monitor"),
        ("ray._private.node.Node", "start_log_monitor"),
        ("ray._private.worker", "global_worker"),
        ("ray.autoscaler.v2.utils", "is_autoscaler_v2"),
    ],
)
def test_ray_still_has(owner, name):
    import importlib

    module, _, attribute = owner.rpartition(".")
    try:
        found = importlib.import_module(owner)
    except ImportError:
        found = getattr(importlib.import_module(module), attribute)
    assert hasattr(found, name), f"Ray {ray.__version__} has no {owner}.{name}, which orchestrator/cluster/private.py uses"
    assert name in SOURCE


def test_nobody_else_uses_what_is_private():
    for path in Path(private.__file__).parents[1].rglob("*.py"):
        if path.name != "private.py":
            text = path.read_text()
            assert "ray._private" not in text, path
            assert "_raylet" not in text, path


SIGNALLED = """
import signal, sys, time
from orchestrator.cluster.connection import Cluster
heard = []
signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
with Cluster.connect(sys.argv[1]):
    signal.raise_signal(signal.SIGTERM)
    # What is saved may take longer than the three seconds that Ray's core gives a process.
    time.sleep(4)
print(heard == [signal.SIGTERM])
"""


@pytest.mark.cluster
def test_a_signal_is_ours_alone(cluster_address):
    done = processes.run([sys.executable, "-c", SIGNALLED, cluster_address])
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.cluster
def test_on_a_cluster(cluster_address):
    handler = signal.getsignal(signal.SIGTERM)
    with Cluster.connect(cluster_address) as cluster:
        assert signal.getsignal(signal.SIGTERM) is handler, "Ray installs its handler of SIGTERM in another way"
        assert cluster.scales is False
        assert private.alive_nodes(cluster_address) == 1
        status = ray._private.worker.global_worker.gcs_client.internal_kv_get(b"__autoscaling_status", None)
        assert status is None or isinstance(status, bytes), "the autoscaler leaves its status elsewhere"
        header = dict(private.token_header())
        assert any("Bearer" in value for value in header.values()), f"a token is shown in another way: {list(header)}"
    assert isinstance(private.running_address(), str)
