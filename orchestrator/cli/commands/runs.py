"""``orchestrate runs``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import output_option, sweep_argument, tracking_option, write_frame
from orchestrator.cli.output import print_table
from orchestrator.cli.verdicts import print_lost

if TYPE_CHECKING:
    import pandas as pd


@click.command("runs")
@sweep_argument
@click.option("--format", "form", type=click.Choice(["table", "csv", "json", "parquet"]), default="table", show_default=True)
@output_option
@tracking_option
def command(sweep: str, form: str, output: Path | None, tracking_uri: str | None) -> None:
    """Print one line per trial of SWEEP: its outcome, its spec and its final measures.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest. The table leaves out what is the same
    for all trials; the other formats have every column. A trial whose run was deleted in MLflow has the outcome `deleted`.

    \b
    Example:
      orchestrate runs
      orchestrate runs figure1 --format csv -o runs.csv
    """
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.read.tables import load_runs, lost
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    frame = load_runs(store, find_sweep(store, sweep))
    print_lost(lost(frame))
    if form != "table":
        write_frame(frame, form, output)
        return
    if output is not None:
        raise click.UsageError("-o goes with --format csv, json or parquet")
    shown = frame.drop(columns=["run_id", *(c for c in frame.columns if "." in c and len(frame) > 1 and _constant(frame[c]))])
    rows = [[_cell(value) for value in row] for row in shown.itertuples(index=False)]
    print_table([str(c) for c in shown.columns], rows, empty="no trials")


def _constant(column: pd.Series[Any]) -> bool:
    return len({str(value) for value in column}) == 1


def _cell(value: Any) -> str:
    import pandas as pd

    if pd.isna(value):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
