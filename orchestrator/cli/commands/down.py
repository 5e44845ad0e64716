"""``orchestrate down``."""

from __future__ import annotations

import click


@click.command("down")
@click.option("--now", is_flag=True, help="Also while sweeps are on it: they stop, and `orchestrate resume` goes on with them.")
def command(now: bool) -> None:
    """End the cluster that `orchestrate up` keeps on this machine.

    \b
    Example:
      orchestrate down
    """
    from orchestrator.cluster.kept import down

    there = down(now=now)
    click.echo(f"the local cluster at {there.address} has ended" if there is not None else "no local cluster is up", err=there is None)
