"""Options that several commands share."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.files import write_file, write_out
from orchestrator.tracking.uris import redact

if TYPE_CHECKING:
    import pandas as pd

Command = TypeVar("Command", bound=Callable[..., Any])

INTERRUPTED = 130
"""Exit code of what was interrupted."""

SEEN = (
    "warning: everyone on this machine can read the password in --tracking-uri while this runs (`ps`): set MLFLOW_TRACKING_URI instead, or "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
)

grid_argument = click.argument("grid", type=click.Path(path_type=Path))
sweep_argument = click.argument("sweep", default="latest")
sweeps_argument = click.argument("sweeps", metavar="[SWEEP]...", nargs=-1)


def set_option(command: Command) -> Command:
    """``--set K=V``, repeatable."""
    return click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the grid; may be repeated.")(
        command
    )


def with_option(command: Command) -> Command:
    """``--with FILE``, repeatable."""
    text = "Bring kinds and measures of your own: a .py file, an importable module, or an entry point; may be repeated."
    return click.option("--with", "modules", multiple=True, metavar="FILE", help=text)(command)


def tracking_option(command: Command) -> Command:
    """``--tracking-uri``."""
    text = "MLflow store [default: $MLFLOW_TRACKING_URI, or sqlite:///mlflow.db in this folder]."
    return click.option("--tracking-uri", metavar="URI", callback=_without_password, help=text)(command)


def _without_password(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:  # noqa: ARG001
    if value is not None and redact(value) != value:
        click.echo(SEEN, err=True)
    return value


def address_option(command: Command) -> Command:
    """``--address``."""
    text = (
        "Ray cluster: host:port or auto from one of its machines, http://head:8265 from anywhere, or local for one that starts and ends "
        "with this command [default: $RAY_ADDRESS, or local]."
    )
    return click.option("--address", metavar="ADDR", help=text)(command)


def storage_option(command: Command) -> Command:
    """``--storage``."""
    text = "Folder or URL for checkpoints and what waits for MLflow [default: $ORCHESTRATE_STORAGE, or ~/.local/state/orchestrate/storage]."
    return click.option("--storage", metavar="DIR_OR_URL", help=text)(command)


def workers_option(command: Command) -> Command:
    """``--workers``."""
    text = "Packs that run at once [default: as many as there is room for]."
    return click.option("--workers", type=click.IntRange(min=1), metavar="N", help=text)(command)


def reuse_option(command: Command) -> Command:
    """``--reuse-from``."""
    text = "Reuse trials of this experiment, too; may be repeated."
    return click.option("--reuse-from", multiple=True, metavar="EXPERIMENT", help=text)(command)


def every_option(command: Command) -> Command:
    """``--checkpoint-every``."""
    return click.option(
        "--checkpoint-every",
        "every",
        type=click.FloatRange(min=0.1),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="Time between checkpoints: less where they are cheap, more where they would take over 2 % of the time.",
    )(command)


def patience_option(command: Command) -> Command:
    """``--patience``."""
    return click.option(
        "--patience",
        type=click.FloatRange(min=0.0),
        default=120.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait, once all is computed, for an MLflow that takes nothing.",
    )(command)


def running_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return what commands that run trials share, as one `orchestrator.options.Options` called ``options``, and ``--detach``."""

    @functools.wraps(command)
    def run(address: str | None, **rest: Any) -> Any:
        from orchestrator.options import Options

        given = {name: rest.pop(name) for name in ("tracking_uri", "storage", "workers", "every", "patience")}
        return command(options=Options(address or os.environ.get("RAY_ADDRESS"), **given), **rest)

    detach = click.option("--detach", is_flag=True, help="With --address http://…: come back once the sweep is on its way.")
    return address_option(tracking_option(storage_option(workers_option(detach(every_option(patience_option(run)))))))


def json_option(command: Command) -> Command:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def output_option(command: Command) -> Command:
    """``-o FILE``."""
    return click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file instead of standard output.")(command)


def print_json(value: Any) -> None:
    """One JSON document on standard output; what is not finite becomes null, as JSON has no word for it."""
    click.echo(json.dumps(_finite(value), indent=2, allow_nan=False, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def write_frame(frame: pd.DataFrame, form: str, output: Path | None) -> None:
    """Write a table as csv, json or parquet to ``output`` or standard output.

    Raises `StorageUnavailable` if the file cannot be written, `click.UsageError` for parquet on a terminal.
    """
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise click.UsageError("parquet is not for a terminal: give -o FILE, or send it into a pipe")
    if form == "csv":
        content = frame.to_csv(index=False).encode()
    elif form == "json":
        # Not pandas' own JSON, which rounds to 15 digits.
        content = (json.dumps(_finite(frame.astype(object).where(frame.notna(), None).to_dict("records"))) + "\n").encode()
    else:
        content = bytes(frame.to_parquet(index=False))
    write_content(content, output)


def write_content(content: bytes, output: Path | None) -> None:
    """Write to ``output``, which appears whole or not at all, or standard output. Raises `StorageUnavailable` if it cannot be written."""
    if output is None:
        write_out(content)
    else:
        write_file(output, content)
