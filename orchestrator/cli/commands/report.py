"""``orchestrate report``."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import sweep_argument, tracking_option


@click.command("report")
@sweep_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file, the only place then [default: figures/EXPERIMENT/SWEEP/report.html].",
)
@tracking_option
def command(sweep: str, output: Path | None, tracking_uri: str | None) -> None:
    """Write all of SWEEP that there is to read into one HTML file that opens anywhere, without a network: what was asked, the grid,
    verdicts, figures, a table of trials to sort and filter, failures, versions, and how to do it again.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest. The file is added to the sweep's MLflow run,
    unless -o says where it goes. A sweep that is not at its end has one, too.

    \b
    Example:
      orchestrate report
      orchestrate report figure1 -o figure1.html
    """
    from orchestrator.analysis.page.writing import write_page
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    written = write_page(store, find_sweep(store, sweep), output, lambda text: click.echo(text, err=True))
    click.echo(f"written: {written} ({written.stat().st_size:,} bytes)")
