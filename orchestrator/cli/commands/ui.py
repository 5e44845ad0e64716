"""``orchestrate ui``."""

from __future__ import annotations

import os
import sys

import click

from orchestrator.cli.options import tracking_option
from orchestrator.errors import UsageError


@click.command("ui")
@tracking_option
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; others than this machine's own can then see all runs."
)
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
def command(tracking_uri: str | None, host: str, port: int) -> None:
    """Show the runs in MLflow's web page, until interrupted.

    \b
    Example:
      orchestrate ui
      orchestrate ui --port 5001
    """
    from orchestrator.tracking.preflight import check_place
    from orchestrator.tracking.store import is_there
    from orchestrator.tracking.uris import is_http, redact, resolve, sqlite_path

    uri = resolve(tracking_uri)
    if is_http(uri):
        raise UsageError(f"{redact(uri)} is a server already: open it in a browser")
    if not is_there(tracking_uri):
        raise UsageError(f"there are no runs yet: {sqlite_path(uri)} does not exist. Submit a grid first, or give --tracking-uri")
    check_place(uri)
    click.echo(f"MLflow shows {redact(uri)} at http://{host}:{port} (Ctrl-C ends it)", err=True)
    # One worker serves one person; MLflow's default of four takes a gigabyte and seconds longer to start.
    # The store's address goes into the environment: arguments can be read by every user of the machine, and it may hold a password.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"])
