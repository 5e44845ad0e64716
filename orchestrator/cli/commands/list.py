"""``orchestrate list``."""

from __future__ import annotations

import click

from orchestrator.cli.options import json_option, print_json, tracking_option
from orchestrator.cli.output import counts_text, print_table, started_text, summary_json


@click.command("list")
@click.argument("experiment", required=False)
@tracking_option
@json_option
def command(experiment: str | None, tracking_uri: str | None, as_json: bool) -> None:
    """List the sweeps in MLflow, newest first; those of EXPERIMENT only, if given.

    \b
    Example:
      orchestrate list
      orchestrate list figure1 --json
    """
    from orchestrator.tracking.read.queries import list_sweeps
    from orchestrator.tracking.store import open_existing

    sweeps = list_sweeps(open_existing(tracking_uri), experiment)
    if as_json:
        print_json([summary_json(sweep) for sweep in sweeps])
        return
    rows = [(s.sweep_id, s.experiment, s.status.lower(), started_text(s.started), str(s.trials), counts_text(s)) for s in sweeps]
    print_table(("sweep", "experiment", "status", "started", "trials", "outcomes"), rows, empty="no sweeps yet: orchestrate submit GRID")
