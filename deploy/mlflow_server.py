#!/opt/orchestrate/bin/python
"""Run an MLflow server that nobody uses without a password. Passwords come from files: none is on a command line or in a shared file.

All else is said in MLflow's own variables: MLFLOW_HOST, MLFLOW_PORT, MLFLOW_ARTIFACTS_DESTINATION, MLFLOW_SERVER_ALLOWED_HOSTS.
"""

from __future__ import annotations

import configparser
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.engine import make_url

DATABASE = "ORCHESTRATE_MLFLOW_DATABASE"
"""The database, without its password: postgresql+psycopg2://mlflow@postgres/mlflow, or sqlite:////data/mlflow.db."""
SECRETS = "ORCHESTRATE_SECRETS"
"""The folder with the files that are named here."""
ADMIN, KEY, POSTGRES = "mlflow_password", "mlflow_secret_key", "postgres_password"


def settings(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return what MLflow is to find in its environment, besides what is there. Its file of settings is written to ``folder``.

    Raises `SystemExit` with one line for a variable or a file that is missing or empty.
    """
    secrets = Path(environment.get(SECRETS, "/run/secrets"))
    if not environment.get(DATABASE):
        raise SystemExit(f"{DATABASE} is not set")
    database = make_url(environment[DATABASE])
    if database.get_backend_name() != "sqlite":
        database = database.set(password=_secret(secrets, POSTGRES))
    uri = database.render_as_string(hide_password=False)
    ini = configparser.ConfigParser(interpolation=None)
    ini["mlflow"] = {
        "default_permission": "READ",
        # MLflow reads this with interpolation.
        "database_uri": uri.replace("%", "%%"),
        "admin_username": "admin",
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        # A password is hashed for a tenth of a second, which a sweep would wait for at each request.
        "auth_cache_ttl_seconds": "60",
    }
    path = folder / "auth.ini"
    path.touch(mode=0o600)
    with path.open("w") as file:
        ini.write(file)
    return {
        "MLFLOW_AUTH_ADMIN_PASSWORD": _secret(secrets, ADMIN),
        "MLFLOW_AUTH_CONFIG_PATH": str(path),
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": _secret(secrets, KEY),
        # Ten more processes, for what sweeps do not use.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def _secret(folder: Path, name: str) -> str:
    try:
        value = (folder / name).read_text().strip()
    except OSError as error:
        raise SystemExit(f"cannot read {folder / name}: {error.strerror}; deploy/secrets.sh makes it") from error
    if not value:
        raise SystemExit(f"{folder / name} is empty")
    return value


def main() -> None:
    """Become an MLflow server."""
    os.environ.update(settings(os.environ, Path(tempfile.mkdtemp(prefix="mlflow-"))))
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", *sys.argv[1:]]
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
