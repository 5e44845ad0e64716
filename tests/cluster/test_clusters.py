"""The clusters of `tests.clusters` come up, run jobs, lose nodes, and leave nothing behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.clusters import PREFIX, network_cluster, no_network_cluster
from tests.processes import eventually

pytestmark = pytest.mark.cluster

WITHOUT = no_network_cluster()
SUBMIT = """
import asyncio, sys
from ray.job_submission import JobSubmissionClient

client = JobSubmissionClient(sys.argv[1])

async def follow(job):
    async for lines in client.tail_job_logs(job):
        print(lines, end="")

job = client.submit_job(entrypoint='python -c "import ray; ray.init(); print(len(ray.nodes()), int(ray.cluster_resources()[\\'CPU\\']))"')
asyncio.run(follow(job))
print(client.get_job_status(job))
"""
ALIVE = """
import sys
from ray._raylet import GcsClient

print(sorted(node.node_manager_address for node in GcsClient(sys.argv[1]).get_all_node_info().values() if node.state == 0))
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT or "can run")
def test_network_cluster_runs_jobs_and_loses_a_node():
    with network_cluster(nodes=3) as cluster:
        told = cluster.run([sys.executable, "-c", SUBMIT, cluster.job_address])
        assert told.returncode == 0, told.stderr
        assert "3 3" in told.stdout.splitlines()
        assert told.stdout.splitlines()[-1] == "SUCCEEDED"

        refused = cluster.run(
            [sys.executable, "-c", SUBMIT, cluster.job_address], env={"RAY_AUTH_TOKEN_PATH": None, "RAY_AUTH_TOKEN": "x" * 64}
        )
        assert "Invalid authentication token" in refused.stderr

        outside = cluster.run([sys.executable, "-c", "import ray; ray.init()"], env={"RAY_ADDRESS": cluster.gcs_address})
        assert outside.returncode != 0, "a driver needs a node of its own machine"

        cluster.kill_node(2)

        def alive():
            return cluster.run([sys.executable, "-c", ALIVE, cluster.gcs_address]).stdout

        eventually(lambda: "10.77.0.3" not in alive(), alive)
        assert "10.77.0.2" in alive()
        folder = cluster.folder
        assert cluster.logs(0)
    assert not folder.exists()
    assert PREFIX not in subprocess.run(["ip", "netns"], check=True, capture_output=True, text=True).stdout
