"""``orchestrate submit``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from orchestrator.cli.options import address_option, grid_argument, json_option, set_option, tracking_option


@click.command("submit")
@grid_argument
@set_option
@address_option
@tracking_option
@click.option("--fresh", is_flag=True, help="Run all trials, also those that MLflow has already.")
@click.option("--dry-run", is_flag=True, help="Check the grid and print the plan; start and create nothing.")
@json_option
def command(
    grid: Path, overrides: tuple[str, ...], address: str | None, tracking_uri: str | None, fresh: bool, dry_run: bool, as_json: bool
) -> None:
    """Run the trials of GRID that MLflow does not have yet, and wait for them.

    \b
    Example:
      orchestrate submit configs/quickstart.yaml
      orchestrate submit configs/figure1.yaml --set seeds=3 --json

    With --json the last line of standard output is one object with the sweep's id and its counts by outcome.
    """
    from orchestrator.grid import load_grid

    loaded = load_grid(grid, overrides)
    if dry_run:
        from orchestrator.cli.plan import show_plan

        show_plan(loaded, None, as_json)
        return
    from orchestrator.cli.progress import reporter_for
    from orchestrator.sweep import submit

    with reporter_for(as_json) as reporter:
        summary = submit(loaded, reporter, address=address, tracking_uri=tracking_uri, fresh=fresh)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(summary)))
    else:
        counts = ", ".join(
            f"{getattr(summary, k)} {k}" for k in ("converged", "exhausted", "diverged", "failed", "cancelled") if getattr(summary, k)
        )
        reuse = f", {summary.reused} reused" if summary.reused else ""
        click.echo(f"sweep {summary.sweep_id}: {summary.trials} trials ({counts or 'none run'}{reuse}) in {summary.seconds:.1f} s")
        click.echo(f"look at them: orchestrate runs {summary.sweep_id}   orchestrate history {summary.sweep_id}   orchestrate ui")
        if summary.failed:
            click.echo(f"why they failed: orchestrate status {summary.sweep_id}", err=True)
    raise click.exceptions.Exit(1 if summary.failed else 0)
