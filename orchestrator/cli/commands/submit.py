"""``orchestrate submit``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from orchestrator.cli.options import INTERRUPTED, grid_argument, json_option, reuse_option, running_options, set_option, with_option
from orchestrator.cli.output import unread
from orchestrator.cli.verdicts import print_figures, print_lost, print_verdicts
from workloads.amounts import amount

if TYPE_CHECKING:
    from orchestrator.analysis.report import Report
    from orchestrator.execution.progress import Reporter
    from orchestrator.grid import Grid
    from orchestrator.options import Options
    from orchestrator.sweeps.submit import Summary


@click.command("submit")
@grid_argument
@set_option
@with_option
@running_options
@click.option("--fresh", is_flag=True, help="Run all trials, also those that MLflow has already.")
@reuse_option
@click.option("--dry-run", is_flag=True, help="Check the grid and print the plan; start and create nothing.")
@json_option
def command(
    grid: Path,
    overrides: tuple[str, ...],
    modules: tuple[str, ...],
    options: Options,
    detach: bool,
    fresh: bool,
    reuse_from: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run the trials of GRID that MLflow does not have yet, wait for them, draw its figures and check its claims.

    \b
    Example:
      orchestrate submit configs/quickstart.yaml
      orchestrate submit configs/figure1.yaml --set seeds=3 --json
      orchestrate submit configs/own/grid.yaml --with configs/own/models.py

    With --json the last line of standard output is one object with the sweep's id and its counts by outcome.
    """
    from orchestrator.cli.progress import counted
    from orchestrator.extensions import use
    from orchestrator.grid import load_grid

    use(modules)
    with counted("expanding the grid") as advanced:
        loaded = load_grid(grid, overrides, advanced)
    if dry_run:
        from orchestrator.cli.commands.plan import reuse_of, show_plan

        show_plan(loaded, None, as_json, None if fresh else reuse_of(loaded, reuse_from, options.tracking_uri))
        return
    start(loaded, dataclasses.replace(options, fresh=fresh, reuse_from=reuse_from), as_json, detach)


def start(grid: Grid, options: Options, as_json: bool, detach: bool) -> NoReturn:
    """Run a grid here, or send it to the cluster that takes it as a job."""
    from orchestrator.cluster.addresses import is_job_address

    if is_job_address(options.address):
        from orchestrator.cli.remote import send

        send(grid, options, as_json, detach)
    if detach:
        raise click.UsageError("--detach needs --address http://head:8265: a sweep that runs in this process ends with it")
    run(grid, options, as_json)


def run(grid: Grid, options: Options, as_json: bool) -> NoReturn:
    """Run a grid, show how it goes and what came of it, and exit with the code that says so."""
    from orchestrator.cli.progress import reporter_for
    from orchestrator.sweeps.signals import stoppable
    from orchestrator.sweeps.submit import submit

    with reporter_for(as_json) as reporter, stoppable() as stop:
        summary = submit(grid, reporter, options, stop)
        answers = None if summary.cancelled else _answers(grid, summary.sweep_id, options.tracking_uri, reporter)
    with unread():
        _show(summary, answers, as_json)
    if summary.cancelled:
        raise click.exceptions.Exit(INTERRUPTED)
    raise click.exceptions.Exit(1 if summary.failed or (answers is not None and not answers.sound) else 0)


def _show(summary: Summary, answers: Report | None, as_json: bool) -> None:
    if answers is not None:
        print_figures(answers.files, answers.undrawn, err=as_json)
        print_verdicts(answers.verdicts, err=as_json)
        print_lost(answers.lost)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(summary)))
    else:
        _print_summary(summary)
    if summary.cancelled:
        left, mend = amount(summary.cancelled, "trial"), f"`orchestrate resume {summary.sweep_id}`, or submit the same grid again"
        click.echo(f"interrupted with {left} to go: {mend}", err=True)


def _print_summary(summary: Summary) -> None:
    shown = ("converged", "exhausted", "diverged", "aborted", "failed", "cancelled")
    counts = ", ".join(f"{getattr(summary, kind)} {kind}" for kind in shown if getattr(summary, kind))
    reuse = f", {summary.reused} reused" if summary.reused else ""
    click.echo(f"sweep {summary.sweep_id}: {amount(summary.trials, 'trial')} ({counts or 'none run'}{reuse}) in {summary.seconds:.1f} s")
    click.echo(f"look at them: orchestrate runs {summary.sweep_id}   orchestrate history {summary.sweep_id}   orchestrate ui")
    if summary.failed:
        click.echo(f"why they failed: orchestrate status {summary.sweep_id}", err=True)


def _answers(grid: Grid, sweep_id: str, tracking_uri: str | None, reporter: Reporter) -> Report | None:
    """Draw the grid's figures and check its claims, if it has any."""
    if not grid.figures and not grid.claims:
        return None
    from orchestrator.analysis.report import folder_of, report
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    sweep = find_sweep(store, sweep_id)
    return report(store, [sweep], grid.figures, grid.claims, folder_of([sweep]), tell=reporter.note)
