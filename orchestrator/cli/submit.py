"""``orchestrate submit``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import address_option, grid_argument, json_option, set_option, tracking_option
from orchestrator.cli.verdicts import print_figures, print_verdicts

if TYPE_CHECKING:
    from orchestrator.analysis.report import Report
    from orchestrator.grid import Grid
    from orchestrator.sweep import Reporter


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
    """Run the trials of GRID that MLflow does not have yet, wait for them, draw its figures and check its claims.

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
        answers = _answers(loaded, summary.sweep_id, tracking_uri, reporter)
    if answers is not None:
        print_figures(answers.files, answers.undrawn, err=as_json)
        print_verdicts(answers.verdicts, err=as_json)
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
    raise click.exceptions.Exit(1 if summary.failed or (answers is not None and not answers.sound) else 0)


def _answers(grid: Grid, sweep_id: str, tracking_uri: str | None, reporter: Reporter) -> Report | None:
    """Draw the grid's figures and check its claims, if it has any."""
    if not grid.figures and not grid.claims:
        return None
    from orchestrator.analysis.report import folder_of, report
    from orchestrator.tracking.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    sweep = find_sweep(store, sweep_id)
    return report(store, [sweep], grid.figures, grid.claims, folder_of([sweep]), tell=reporter.note)
