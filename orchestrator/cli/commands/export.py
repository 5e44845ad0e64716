"""``orchestrate export``."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import sweep_argument, tracking_option
from orchestrator.cli.verdicts import print_left_out
from workloads.amounts import amount


@click.command("export")
@sweep_argument
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Write to this file, a zip.")
@tracking_option
def command(sweep: str, output: Path, tracking_uri: str | None) -> None:
    """Write SWEEP to one file, with all of its trials, for `orchestrate import` on another machine or into another MLflow store.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest. Trials that it reused from other sweeps
    are in the file, too.

    \b
    Example:
      orchestrate export figure1 -o figure1.zip
    """
    from orchestrator.cli.progress import counted
    from orchestrator.sweeps.share import export_sweep
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.read.tables import count_deleted, lost_runs
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    found = find_sweep(store, sweep)
    with counted("exporting") as advanced:
        done = export_sweep(store, found, output, lambda text: click.echo(text, err=True), advanced)
    deleted = count_deleted(store, found)
    print_left_out(done.trials - done.ended - deleted, [lost_runs(deleted, done.trials)] if deleted else [])
    size = output.stat().st_size
    trials = f"{done.ended:,} of {amount(done.trials, 'trial')}"
    click.echo(
        f"sweep {done.sweep_id} of {done.experiment}: {trials} in {output} ({size:,} bytes)",
        err=True,
    )
