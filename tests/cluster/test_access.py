"""Tokens and TLS: a sweep on an encrypted cluster, and one line at once for each way in which settings do not match."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator.cluster.scratch import scratch_folder
from tests import forked
from tests.certificates import certificate, tls
from tests.processes import communicate, popen, run

ROOT = Path(__file__).parents[2]
GRID = """
name: encrypted
fixed:
  problem: {kind: matrix_completion, shape: [4, 4], target: {rank: 1, frobenius: 2}, observed: 10}
  factorization: {kind: deep_matrix, depth: 2}
  init: {kind: gaussian, scale: 0.3}
  optimizer: {kind: gd, lr: 0.05}
  stop: {steps: 100}
seeds: 3
resources: {engine: batched}
"""
SERVE = """
import sys, ray

options = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 200 * 1024 * 1024, "logging_level": "ERROR"}
ray.init(address="local", _temp_dir=sys.argv[1], **options)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("access")
    (folder / "grid.yaml").write_text(GRID)
    authority = certificate(folder, "authority")
    certificate(folder, "machine", authority)
    certificate(folder, "stranger")
    (folder / "token").write_text("a1" * 32)
    return folder


def token(folder):
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}


def environment(folder, settings):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return kept | {"PYTHONPATH": str(ROOT), "HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"} | settings


@pytest.fixture(scope="module")
def encrypted(folder):
    """A cluster with tokens and TLS. Yields its address."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with scratch_folder() as scratch:
        # Its workers are killed in the end, and leave their temporary files.
        settings = tls(folder) | token(folder) | {"TMPDIR": str(scratch)}
        process = popen([sys.executable, "-c", SERVE, str(scratch)], env=environment(folder, settings), **pipes)
        try:
            yield process.stdout.readline().strip()
        finally:
            communicate(process)


def submit(folder, address, settings):
    return forked.run(["submit", "grid.yaml", "--address", address], cwd=folder, env=environment(folder, settings))


def explained(done, message):
    assert done.returncode == 3, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1, "and nothing else"


@pytest.mark.cluster
def test_a_sweep_on_an_encrypted_cluster(encrypted, folder):
    done = submit(folder, encrypted, tls(folder) | token(folder))
    assert done.returncode == 0, done.stderr
    assert "3 exhausted" in done.stderr + done.stdout


@pytest.mark.cluster
def test_settings_that_an_encrypted_cluster_does_not_take(encrypted, folder):
    explained(submit(folder, encrypted, token(folder)), "it hangs up: if it wants TLS, set RAY_USE_TLS=1")
    explained(submit(folder, encrypted, tls(folder, "stranger") | token(folder)), "RAY_TLS_CA_CERT is not that of its certificate")
    explained(submit(folder, encrypted, tls(folder)), "it wants a token: set RAY_AUTH_MODE=token")


@pytest.mark.cluster
def test_settings_that_a_plain_cluster_does_not_take(cluster_address, folder):
    explained(submit(folder, cluster_address, tls(folder) | token(folder)), "RAY_USE_TLS is set, and it does not speak TLS: unset it")
    explained(submit(folder, cluster_address, {}), "it wants a token: set RAY_AUTH_MODE=token")
    explained(submit(folder, cluster_address, {"RAY_AUTH_MODE": "token"}), "it wants a token and there is none here")
    explained(submit(folder, cluster_address, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b2" * 32}), "it does not accept this token")


@pytest.mark.cluster
def test_a_head_is_asked_directly_whatever_the_web_is_reached_through(cluster_address, folder):
    proxy = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    explained(
        submit(folder, cluster_address, proxy | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b2" * 32}), "it does not accept this token"
    )


def test_a_file_of_tls_that_is_missing_is_named(folder):
    settings = tls(folder) | {"RAY_TLS_SERVER_KEY": str(folder / "nowhere.key")}
    done = submit(folder, "127.0.0.1:6379", settings)
    assert (done.returncode, "RAY_TLS_SERVER_KEY: cannot read" in done.stderr) == (2, True)
    del settings["RAY_TLS_SERVER_KEY"]
    done = submit(folder, "127.0.0.1:6379", settings)
    assert (done.returncode, "RAY_USE_TLS is set and RAY_TLS_SERVER_KEY is not" in done.stderr) == (2, True)


def test_what_is_no_ray_head(folder):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        explained(submit(folder, f"127.0.0.1:{server.server_port}", {}), "does not let us in: ")
        server.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        explained(submit(folder, f"127.0.0.1:{mute.getsockname()[1]}", {}), "it takes connections and says nothing: is it a Ray head?")


@pytest.mark.ray
def test_a_cluster_of_another_version_is_a_line_that_names_both(cluster_address):
    program = (
        "import ray; ray.__version__ = '2.3.4'; from orchestrator.cluster.connection import Cluster; from orchestrator.errors import *\n"
        f"try: Cluster.connect({cluster_address!r})\n"
        "except RayUnavailable as error: print(error)"
    )
    done = run([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(ROOT)})
    import ray

    (line,) = done.stdout.splitlines()
    assert f"Ray: {ray.__version__}" in line
    assert "Ray: 2.3.4" in line
    assert line.endswith("install the same versions on both sides")
