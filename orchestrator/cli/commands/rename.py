"""``orchestrate rename``."""

from __future__ import annotations

import click

from orchestrator.cli.options import tracking_option


@click.command("rename")
@click.argument("sweep")
@click.argument("name")
@tracking_option
def command(sweep: str, name: str, tracking_uri: str | None) -> None:
    """Give SWEEP a NAME, by which all commands know it from then on, and MLflow's page shows it.

    SWEEP is an id, a unique prefix of one, its name, an experiment's name (its newest sweep), or latest. Its id stays.

    \b
    Example:
      orchestrate rename latest depth-and-scale
      orchestrate runs depth-and-scale
    """
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing
    from orchestrator.tracking.write.annotation import rename

    store = open_existing(tracking_uri)
    found = find_sweep(store, sweep)
    rename(store, found, name)
    click.echo(f"sweep {found.sweep_id} of {found.experiment} is called {name!r}", err=True)
