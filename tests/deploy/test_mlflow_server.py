"""The MLflow server of a deployment: passwords from files, nobody in without one, no other name than its own; and the bucket beside it."""

from __future__ import annotations

import importlib.util
import os
import stat
import sys
from pathlib import Path

import pytest

from deploy.mlflow_server import settings
from orchestrator.cluster.slurm.node import free_port
from tests import processes
from tests.deploy.files import DEPLOY
from tests.servers import await_port

AWKWARD = "p%41@/:?#"
"""A password with all that has a meaning in a URL or a file of settings."""


@pytest.fixture
def secrets(tmp_path) -> Path:
    folder = tmp_path / "secrets"
    assert processes.run(["sh", str(DEPLOY / "secrets.sh"), str(folder)]).returncode == 0
    return folder


def read_auth_config():
    """MLflow's own reading of its settings, without the rest of its server, which takes seconds to import."""
    path = Path(str(importlib.util.find_spec("mlflow").origin)).parent / "server/auth/config.py"
    spec = importlib.util.spec_from_file_location("mlflow_auth_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.read_auth_config()


def test_passwords_arrive_whatever_is_in_them(secrets, tmp_path, monkeypatch):
    from sqlalchemy.engine import make_url

    (secrets / "postgres_password").write_text(f"{AWKWARD}\n")
    (secrets / "mlflow_password").write_text(AWKWARD)
    environment = {"ORCHESTRATE_SECRETS": str(secrets), "ORCHESTRATE_MLFLOW_DATABASE": "postgresql+psycopg2://mlflow@postgres:5432/mlflow"}
    found = settings(environment, tmp_path)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    read = read_auth_config()
    assert read.admin_password == AWKWARD
    assert make_url(read.database_uri).password == AWKWARD
    assert make_url(found["MLFLOW_BACKEND_STORE_URI"]).password == AWKWARD
    assert stat.S_IMODE(Path(found["MLFLOW_AUTH_CONFIG_PATH"]).stat().st_mode) == 0o600


def test_a_file_database_needs_no_password(secrets, tmp_path):
    (secrets / "postgres_password").unlink()
    found = settings({"ORCHESTRATE_SECRETS": str(secrets), "ORCHESTRATE_MLFLOW_DATABASE": "sqlite:////data/mlflow.db"}, tmp_path)
    assert found["MLFLOW_BACKEND_STORE_URI"] == "sqlite:////data/mlflow.db"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("mlflow_password", None, "cannot read .*mlflow_password: No such file"), ("mlflow_secret_key", "", "mlflow_secret_key is empty")],
)
def test_a_secret_that_is_missing_is_one_line(secrets, tmp_path, name, content, said):
    (secrets / name).unlink() if content is None else (secrets / name).write_text(content)
    with pytest.raises(SystemExit, match=said):
        settings({"ORCHESTRATE_SECRETS": str(secrets), "ORCHESTRATE_MLFLOW_DATABASE": "sqlite:////data/mlflow.db"}, tmp_path)


def test_a_database_that_is_not_named_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match="ORCHESTRATE_MLFLOW_DATABASE is not set"):
        settings({}, tmp_path)


@pytest.mark.slow
@pytest.mark.server
def test_the_server_wants_its_password_and_is_asked_by_its_own_names(secrets, tmp_path):
    import requests

    port = free_port()
    variables = {
        "ORCHESTRATE_SECRETS": str(secrets),
        "ORCHESTRATE_MLFLOW_DATABASE": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "artifacts"),
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": str(port),
        "MLFLOW_WORKERS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Its file of settings is there as long as the container is.
        "TMPDIR": str(tmp_path),
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"mlflow:5000,127.0.0.1:{port}",
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    log = tmp_path / "log"
    with log.open("wb") as file:
        server = processes.popen(
            [sys.executable, str(DEPLOY / "mlflow_server.py")], cwd=tmp_path, env=clean | variables, stdout=file, stderr=file
        )
    try:
        await_port(port, server, log)
        password = (secrets / "mlflow_password").read_text()
        url, credentials = f"http://127.0.0.1:{port}", ("admin", password)

        def ask(path="/api/2.0/mlflow/experiments/search?max_results=1", **options):
            return requests.get(f"{url}{path}", timeout=60, **options).status_code

        assert ask("/health") == 200, "what looks after it has no password"
        assert ask() == 401
        assert ask(auth=("admin", "password1234")) == 401
        assert ask(auth=credentials) == 200
        assert ask(auth=credentials, headers={"Host": "mlflow:5000"}) == 200
        assert ask(auth=credentials, headers={"Host": "evil.example:5000"}) == 403
        assert password not in log.read_text()
        import psutil

        lines = [" ".join(p.cmdline()) for p in [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]]
        assert not [line for line in lines if password in line]
    finally:
        server.terminate()
        processes.communicate(server)


@pytest.fixture
def objects(monkeypatch):
    """An S3-compatible server on loopback."""
    server = pytest.importorskip("moto.server")
    port = free_port()
    threaded = server.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    threaded.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield port
    threaded.stop()


def test_a_bucket_is_made_once_and_is_what_the_program_writes_to(objects, secrets, monkeypatch):
    pytest.importorskip("s3fs")
    from deploy.make_bucket import make_bucket
    from orchestrator.storage.base import open_storage

    # As in the containers: credentials in a file, the address in the environment.
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(secrets / "aws_credentials"))
    make_bucket("s3://orchestrate/mlflow")
    make_bucket("s3://orchestrate")
    storage = open_storage("s3://orchestrate/sweeps")
    storage.write("a/b", b"kept")
    assert storage.read("a/b") == b"kept"
    assert storage.names("a") == ["a/b"]


def test_a_store_that_does_not_come_up_is_one_line(monkeypatch):
    pytest.importorskip("boto3")
    from deploy.make_bucket import make_bucket

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(SystemExit, match="the object store does not answer"):
        make_bucket("s3://orchestrate", patience=0.0)
