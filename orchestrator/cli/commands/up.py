"""``orchestrate up``."""

from __future__ import annotations

import sys

import click


@click.command("up")
@click.option("--workers", type=click.IntRange(1), help="How many are kept warm [default: one a core].")
@click.option(
    "--idle-minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="It ends after so long without a sweep.",
)
def command(workers: int | None, idle_minutes: float) -> None:
    """Keep a Ray cluster on this machine whose workers are warm: sweeps find it by themselves, and start in a second rather than five.

    \b
    Example:
      orchestrate up
      orchestrate submit configs/quickstart.yaml
      orchestrate down
    """
    from orchestrator.cli.client import IMPORTS
    from orchestrator.cluster.kept import up

    server = [sys.executable, "-P", "-m", "orchestrator.cli.server", "{}", *IMPORTS]
    click.echo(f"local cluster at {up(workers, idle_minutes * 60, server)}")
