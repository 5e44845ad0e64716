"""``orchestrate history``."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import output_option, sweep_argument, tracking_option, write_frame
from orchestrator.cli.verdicts import print_lost


@click.command("history")
@sweep_argument
@click.option("--format", "form", type=click.Choice(["csv", "json", "parquet"]), default="csv", show_default=True)
@click.option("--trial", "trials", multiple=True, metavar="ID", help="Only this trial; may be repeated.")
@output_option
@tracking_option
def command(sweep: str, form: str, trials: tuple[str, ...], output: Path | None, tracking_uri: str | None) -> None:
    """Print the measures of SWEEP's trials over their steps, at full resolution.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest.

    \b
    Example:
      orchestrate history figure1 -o history.csv
      orchestrate history latest --format parquet -o history.parquet
    """
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.read.tables import load_history, load_runs, lost
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    found = find_sweep(store, sweep)
    frame = load_history(store, found, list(trials) or None)
    runs = load_runs(store, found)
    print_lost(lost(runs[runs["trial_id"].isin(trials)] if trials else runs, frame))
    write_frame(frame, form, output)
