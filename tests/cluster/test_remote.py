"""Sweeps sent as jobs to a cluster on other machines, which share nothing with the one that sends them but the network.

Those speak TLS with each other, and of their ports two alone are open: the job server's and MLflow's.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked
from tests.clusters import network_cluster, no_network_cluster
from tests.processes import eventually
from tests.servers import SERVER_ENVIRONMENT, mlflow_command

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.server,
    pytest.mark.skipif(bool(no_network_cluster()), reason=no_network_cluster() or "works"),
]
ROOT = Path(__file__).parents[2]
GRID = """
name: remote
fixed:
  problem: {kind: matrix_completion, shape: [8, 8], file: ../data/target.csv}
  factorization: {kind: deep_matrix}
  init: {kind: gaussian, scale: 1e-2}
  optimizer: {kind: gd, lr: 1e-5}
  stop: {steps: 2000}
grid:
  # A pack for each node.
  factorization.depth: [2, 3]
seeds: 4
record: {points: 20, measures: [nuclear]}
resources: {engine: batched}
"""


@pytest.fixture(scope="module")
def cluster():
    with network_cluster(nodes=2, encrypted=True) as cluster:
        cluster.network.close("client", but=(8265, 5000))
        yield cluster


@pytest.fixture(scope="module")
def client(cluster):
    """The cluster, and the process on the client from which commands are forked."""
    return cluster, cluster.fork_server()


@pytest.fixture(scope="module")
def store(cluster, template):
    """An MLflow server on the head, which the client and all nodes reach."""
    folder = cluster.folder / "mlflow"
    folder.mkdir()
    shutil.copy(template, folder)
    command = mlflow_command(cluster.head, 5000, f"sqlite:///{folder}/mlflow.db", folder / "artifacts", "--allowed-hosts", "*")
    with (folder / "log").open("wb") as log:
        server = cluster.popen(command, namespace="head", env=SERVER_ENVIRONMENT, cwd=folder, stdout=log, stderr=log)
    probe = f"import socket; socket.create_connection(('{cluster.head}', 5000), 1)"

    def listening():
        assert server.poll() is None, (folder / "log").read_text()
        return cluster.run([sys.executable, "-c", probe]).returncode == 0

    eventually(listening)
    return f"http://{cluster.head}:5000"


@pytest.fixture(scope="module")
def work(cluster):
    """A folder on the client, with a grid whose data file is beside it."""
    work = cluster.folder / "client" / "grids"
    work.mkdir(parents=True)
    data = work.parent / "data"
    data.mkdir()
    data.joinpath("target.csv").write_text("".join(f"{i},{j},{(i + 1) * (j - 3) / 8}\n" for i in range(8) for j in range(8) if (i * j) % 3))
    (work / "grid.yaml").write_text(GRID)
    (work / "endless.yaml").write_text(GRID.replace("name: remote", "name: endless").replace("2000", "1000000000000"))
    # What would have hidden a data file from Ray.
    (work.parent / ".gitignore").write_text("*.csv\n")
    return work


def orchestrate(client, work, *arguments, env=None):
    """What a command says on the client, whose processes are forked from ``client``."""
    cluster, server = client
    settings = {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(work.parent / "state"), "OMP_NUM_THREADS": "1", **(env or {})}
    return forked.run(arguments, cwd=work, env=cluster.environment(settings), server=server)


def summary(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.stdout.splitlines(), done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def await_words(client, work, store, sweep, words):
    """What a job has said, once it has said ``words``."""
    told = ""

    def said():
        nonlocal told
        done = orchestrate(client, work, "logs", sweep, *address(client, store))
        assert done.returncode == 0, done.stderr
        told = done.stdout
        return words in told

    # Each of these commands takes a second of a core.
    eventually(said, lambda: told, every=1)
    return told


def address(client, store):
    cluster, _ = client
    return ("--address", cluster.job_address, "--tracking-uri", store)


def test_a_sweep_is_sent_and_runs_there_and_no_password_shows(cluster, client, store, work):
    secret = "hush-hush-42"
    env = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": secret}
    sent = orchestrate(client, work, "submit", "grid.yaml", "--detach", "--json", *address(client, store), env=env)
    assert sent.returncode == 0, sent.stderr
    code = f"from ray.job_submission import JobSubmissionClient as C; print([vars(j) for j in C('{cluster.job_address}').list_jobs()])"
    listed = cluster.run([sys.executable, "-c", code])
    assert summary(sent)["job"] in listed.stdout
    assert secret not in listed.stdout
    sweep = summary(sent)["sweep_id"]
    assert f"as job orchestrate-{sweep}" in sent.stderr
    followed = orchestrate(client, work, "logs", sweep, "--follow", "--address", cluster.job_address)
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert "8 trials to run in 2 packs" in followed.stdout
    assert secret not in followed.stdout
    runs = orchestrate(client, work, "runs", sweep, "--format", "json", "--tracking-uri", store)
    assert [row["outcome"] for row in json.loads(runs.stdout)] == ["exhausted"] * 8
    shown = orchestrate(client, work, "status", sweep, "--tracking-uri", store)
    assert "finished" in shown.stdout
    again = orchestrate(client, work, "submit", "grid.yaml", "--json", *address(client, store))
    assert again.returncode == 0, again.stderr
    assert (summary(again)["reused"], summary(again)["trials"]) == (8, 8)


def test_the_doctor_looks_at_every_node_from_outside(cluster, client, store, work):
    looked = orchestrate(client, work, "doctor", "--json", *address(client, store), "--storage", str(cluster.state / "shared"))
    checks = json.loads(looked.stdout)
    assert looked.returncode == 0, checks
    told = {check["name"]: check["found"] for check in checks}
    assert told["nodes"] == "all 2 answer"
    assert told["mlflow"] == f"every node reaches {store} and uploads to it"


def test_from_where_ports_are_closed_or_without_certificates_nobody_joins(cluster, client, work):
    joined = orchestrate(client, work, "submit", "grid.yaml", "--address", cluster.gcs_address)
    assert joined.returncode == 3
    assert joined.stderr.startswith(f"error: no Ray cluster answers at {cluster.gcs_address}: ")
    command = [sys.executable, "-m", "orchestrator.cli.main", "doctor", "--address", cluster.gcs_address]
    plain = cluster.run(command, "node1", {"PYTHONPATH": str(ROOT)}, cwd=work)
    assert plain.returncode == 3
    assert "if it wants TLS, set RAY_USE_TLS=1, RAY_TLS_CA_CERT" in plain.stdout


@pytest.mark.slow
def test_a_node_dies_cancel_from_outside_saves_and_resume_goes_on(cluster, client, store, work):
    sent = orchestrate(client, work, "submit", "endless.yaml", "--detach", "--json", "--checkpoint-every", "1", *address(client, store))
    assert sent.returncode == 0, sent.stderr
    sweep = summary(sent)["sweep_id"]
    kept = cluster.state / "orchestrate" / "storage" / "endless" / sweep / "checkpoints"
    eventually(
        lambda: len(list(kept.glob("*.safetensors"))) >= 2,
        lambda: orchestrate(client, work, "logs", sweep, *address(client, store)).stdout,
    )
    # They have trained as far as they have to: nobody needs to wait for them.
    cluster.renice("RemoteWorker", 19)
    cluster.kill_node(1)
    said = await_words(client, work, store, sweep, "4 trials are tried again, 4 of them from where they stood")
    assert "its node was lost" in said or "its worker died" in said
    cluster.start_node(1)
    cluster.wait_for_nodes(2)
    cluster.renice("RemoteWorker", 0)
    cancelled = orchestrate(client, work, "cancel", sweep, "--tracking-uri", store)
    assert cancelled.returncode == 0, cancelled.stderr
    assert f"orchestrate resume {sweep}" in cancelled.stdout
    status = orchestrate(client, work, "status", sweep, "--tracking-uri", store).stdout
    assert "killed" in status
    resumed = orchestrate(client, work, "resume", sweep, "--detach", "--json", *address(client, store))
    assert resumed.returncode == 0, resumed.stderr
    job = summary(resumed)["sweep_id"]
    said = await_words(client, work, store, job, "8 trials go on from their checkpoints")
    assert f"going on with sweep {sweep}" in said
    await_words(client, work, store, job, "trials to run")
    stopped = orchestrate(client, work, "cancel", job, "--address", cluster.job_address)
    assert stopped.returncode == 0, stopped.stderr
    followed = orchestrate(client, work, "logs", job, "--follow", "--address", cluster.job_address)
    assert followed.returncode == 130, followed.stdout
    assert "stopping: trials are being saved" in followed.stdout


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"RAY_AUTH_TOKEN_PATH": None, "RAY_AUTH_TOKEN": "0" * 64}, "does not accept this token"),
        ({"RAY_AUTH_MODE": "disabled"}, "it wants a token: set RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_TOKEN_PATH": None}, "there is none here"),
    ],
)
def test_mistakes_with_tokens_are_explained(client, store, work, env, said):
    done = orchestrate(client, work, "submit", "grid.yaml", *address(client, store), env=env)
    assert done.returncode == 3, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_cluster_cannot_reach_is_an_error_at_once(cluster, client, store, work):
    local = orchestrate(client, work, "submit", "grid.yaml", "--address", cluster.job_address, "--tracking-uri", "sqlite:///mlflow.db")
    assert local.returncode == 2
    assert "a sweep on a cluster cannot write to sqlite:///mlflow.db" in local.stderr
    nobody = orchestrate(client, work, "submit", "grid.yaml", "--address", f"http://{cluster.head}:8266", "--tracking-uri", store)
    assert nobody.returncode == 3
    assert "nobody takes Ray jobs at" in nobody.stderr
    greedy = orchestrate(client, work, "submit", "grid.yaml", "--set", "resources.cpus=64", "--json", *address(client, store))
    assert greedy.returncode == 3
    assert re.search(r"resources.cpus asks for 64 a pack, but the cluster .* has [12] in all", greedy.stderr)
    unknown = orchestrate(client, work, "logs", "ffffffff", "--address", cluster.job_address)
    assert (unknown.returncode, "knows of no job" in unknown.stderr) == (2, True)
