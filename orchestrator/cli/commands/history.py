"""``orchestrate history``."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import output_option, sweeps_argument, tracking_option, write_frame
from orchestrator.cli.verdicts import print_lost


@click.command("history")
@sweeps_argument
@click.option("--trial", "--trials", "trials", multiple=True, metavar="ID", help="Only this trial, by its id's beginning; may be repeated.")
@click.option("--where", metavar="CONDITION", help="Only trials that meet this, such as 'factorization.depth == 3 and error < 1e-2'.")
@click.option("--when", metavar="CONDITION", help="Only recorded steps at which this holds, such as 'loss < 1e-3'.")
@click.option("--spec", is_flag=True, help="Have the keys of the trials' specs as columns, too.")
@click.option("--format", "form", type=click.Choice(["csv", "json", "parquet"]), default="csv", show_default=True)
@output_option
@tracking_option
def command(
    sweeps: tuple[str, ...],
    trials: tuple[str, ...],
    where: str | None,
    when: str | None,
    spec: bool,
    form: str,
    output: Path | None,
    tracking_uri: str | None,
) -> None:
    """Print the measures of SWEEP's trials over their steps, at full resolution.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest. Of several sweeps, trials that they share
    are there once, and `sweep` is a column.

    \b
    Example:
      orchestrate history figure1 -o history.csv
      orchestrate history latest --format parquet -o history.parquet
      orchestrate history latest --where "factorization.depth == 3" --when "loss < 1e-3" --spec
      orchestrate history latest --trial 4cf3 --trial 9a
    """
    from orchestrator.analysis.traces import load_traces
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    found = [find_sweep(store, sweep) for sweep in sweeps or ("latest",)]
    frame, lost = load_traces(store, found, trials=trials or None, where=where, when=when, spec=spec)
    print_lost(lost)
    write_frame(frame, form, output)
