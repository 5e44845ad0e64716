"""The compose file: what docker-compose makes of it, and what it must not show."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.deploy.files import DEPLOY, ROOT

FILE = DEPLOY / "compose.yaml"
TEXT = FILE.read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def compose_command() -> list[str] | None:
    """docker-compose as Debian packs it, or Docker's own."""
    if found := shutil.which("docker-compose"):
        return [found]
    if (docker := shutil.which("docker")) and not subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        return [docker, "compose"]
    return None


@pytest.mark.parametrize("more", [[], ["compose.gpu.yaml"]], ids=["cpu", "gpu"])
@pytest.mark.skipif(compose_command() is None, reason="docker-compose is not installed (Debian: apt-get install docker-compose)")
def test_compose_takes_it(more, tmp_path):
    # It looks for the files of secrets.
    copy = tmp_path / "deploy"
    shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns("secrets"))
    subprocess.run(["sh", str(copy / "secrets.sh")], check=True)
    files = [argument for name in ("compose.yaml", *more) for argument in ("--file", str(copy / name))]
    done = subprocess.run(
        [*(compose_command() or []), *files, "config"], capture_output=True, text=True, env=os.environ | {"COMPOSE_PROJECT_NAME": "x"}
    )
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert set(shown["services"]) == set(SERVICES)
    for path in (copy / "secrets").iterdir():
        assert path.read_text().strip() not in done.stdout, f"{path.name} is shown"


def test_what_is_published_is_for_this_machine_alone():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert sorted(ports) == ["127.0.0.1:5000:5000", "127.0.0.1:8265:8265"]


def test_stores_are_reached_by_no_other_network():
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    for name in ("postgres", "objects", "worker", "bucket"):
        assert SERVICES[name]["networks"] == ["inside"]
        assert "ports" not in SERVICES[name]


def test_passwords_come_from_files_and_from_nowhere_else():
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            assert not re.search(r"PASSWORD$|SECRET_ACCESS_KEY$|ACCESS_KEY_ID$|TOKEN$", key), f"{name}: {key}"
            assert "@" not in value or re.search(r"//[^:/@]+@", value), f"{name}: {key} holds a password"
    made = set(re.findall(r"keep ([\w.]+)", (DEPLOY / "secrets.sh").read_text()))
    files = {name: secret["file"].removeprefix("secrets/") for name, secret in COMPOSE["secrets"].items()}
    assert set(files.values()) <= made
    used = {one if isinstance(one, str) else one["source"] for service in SERVICES.values() for one in service.get("secrets", [])}
    assert used == set(files)


def test_everything_that_stays_is_looked_after_and_is_waited_for_as_it_should_be():
    for name, service in SERVICES.items():
        if name not in ("bucket", "objects"):
            assert service["healthcheck"]["test"], name
        if name != "bucket":
            assert service["restart"] == "unless-stopped"
        for other, condition in service.get("depends_on", {}).items():
            wanted = (
                "service_healthy"
                if "healthcheck" in SERVICES[other]
                else {"bucket": "service_completed_successfully"}.get(other, "service_started")
            )
            assert condition["condition"] == wanted, f"{name} waits for {other}"


def test_ray_asks_for_a_token_on_every_node():
    for name in ("head", "worker"):
        environment = SERVICES[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert "ray_token" in SERVICES[name]["secrets"]
    assert "ray_token" not in SERVICES["mlflow"]["secrets"]


def test_mlflow_answers_by_the_names_by_which_it_is_asked():
    allowed = SERVICES["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert SERVICES["head"]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://") in allowed
    assert "127.0.0.1:5000" in allowed
    assert "*" not in "".join(allowed)


def test_no_container_of_ours_has_more_than_it_needs():
    for name, service in SERVICES.items():
        assert "privileged" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]
        if "orchestrate" in service["image"]:
            assert service["cap_drop"] == ["ALL"], name
    assert not [v for service in SERVICES.values() for v in service.get("volumes", []) if v.split(":")[0] not in COMPOSE["volumes"]]
    assert re.search(r"^USER 1000:1000$", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
