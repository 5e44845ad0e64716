"""``orchestrate note``."""

from __future__ import annotations

import click

from orchestrator.cli.options import sweep_argument, tracking_option
from orchestrator.errors import printable_lines


@click.command("note")
@sweep_argument
@click.argument("text", required=False)
@click.option("--replace", is_flag=True, help="Put TEXT in place of what was written before.")
@tracking_option
def command(sweep: str, text: str | None, replace: bool, tracking_uri: str | None) -> None:
    """Add TEXT to the note of SWEEP, which `list`, `status` and MLflow's page show; without TEXT, print it.

    MLflow's page has it below what the program writes there: counts, verdicts and links. What was written there by hand is part of it.

    SWEEP is an id, a unique prefix of one, its name, an experiment's name (its newest sweep), or latest.

    \b
    Example:
      orchestrate note latest "depth 4 levels off: the sign is lost"
      orchestrate note latest
    """
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing
    from orchestrator.tracking.write.annotation import annotate

    if text is None and replace:
        raise click.UsageError("--replace needs TEXT")
    store = open_existing(tracking_uri)
    found = find_sweep(store, sweep)
    if text is not None:
        annotate(store, found, text, replace=replace)
    elif found.note:
        click.echo(printable_lines(found.note))
    else:
        click.echo(f"sweep {found.sweep_id} has no note", err=True)
