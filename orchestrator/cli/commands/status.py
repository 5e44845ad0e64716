"""``orchestrate status``."""

from __future__ import annotations

import click

from orchestrator.cli.options import json_option, print_json, sweep_argument, tracking_option
from orchestrator.cli.output import counts_text, started_text, summary_json, title
from orchestrator.errors import one_line, printable_lines
from workloads.amounts import ended_of

SHOWN_FAILURES = 5


@click.command("status")
@sweep_argument
@tracking_option
@json_option
@click.option("--all", "show_all", is_flag=True, help="Show the traceback of every failed trial, not of the first few.")
def command(sweep: str, tracking_uri: str | None, as_json: bool, show_all: bool) -> None:
    """Show how SWEEP stands: its trials by outcome, how fast it goes if it runs, and why trials failed.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest.

    \b
    Example:
      orchestrate status
      orchestrate status figure1 --json
    """
    from orchestrator.cli.progress import progress_json, progress_of
    from orchestrator.execution.progress import describe
    from orchestrator.sweeps.resume import is_alive
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.read.tables import count_deleted, failures, lost_runs
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    found = find_sweep(store, sweep)
    # It may come to its end after it is read.
    if gone := found.status == "RUNNING" and is_alive(found) is False:
        found = find_sweep(store, found.sweep_id)
    failed = failures(store, found) if found.counts.get("failed") else []
    deleted = count_deleted(store, found)
    if as_json:
        listed = [{"trial_id": trial, "run_id": run, "traceback": text} for trial, run, text in failed]
        print_json({**summary_json(found), "progress": progress_json(progress_of(found)), "deleted": deleted, "failures": listed})
        return
    ended = sum(found.counts.values()) + found.reused
    name = f", {title(found)}," if title(found) else ""
    group = one_line(found.experiment)
    click.echo(f"sweep {found.sweep_id}{name} of {group}: {found.status.lower()}, started {started_text(found.started)}")
    click.echo(f"{ended_of(ended, found.trials)}: {counts_text(found) or 'none yet'}")
    if (state := progress_of(found)) is not None:
        click.echo(f"in training: {describe(state)}")
    if deleted:
        click.echo(lost_runs(deleted, found.trials))
    if found.ended is not None:
        click.echo(f"took {found.ended - found.started:.1f} s")
    if found.status == "RUNNING" and gone:
        click.echo(f"its process is gone: `orchestrate resume {found.sweep_id}` goes on with it")
    elif found.status == "KILLED" or (found.ended is not None and ended < found.trials):
        click.echo(f"it was interrupted: `orchestrate resume {found.sweep_id}`, or submit the same grid again, to run what is missing")
    if found.note:
        click.echo("\n".join(f"note: {one_line(line)}" for line in found.note.splitlines()))
    shown = failed if show_all else failed[:SHOWN_FAILURES]
    for trial, run, text in shown:
        click.echo(f"\nfailed trial {one_line(trial)} (MLflow run {run}):\n{printable_lines(text.rstrip())}")
    if len(shown) < len(failed):
        click.echo(f"\nand {len(failed) - len(shown)} more: --all shows them")
