"""``orchestrate list``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import json_option, print_json, tracking_option
from orchestrator.cli.output import counts_text, print_table, started_text, summary_json, title
from orchestrator.errors import one_line

if TYPE_CHECKING:
    from orchestrator.tracking.read.queries import SweepSummary

SHOWN_NOTE = 60


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
    from orchestrator.cli.progress import progress_json, progress_of
    from orchestrator.tracking.read.queries import list_sweeps
    from orchestrator.tracking.store import open_existing

    sweeps = list_sweeps(open_existing(tracking_uri), experiment)
    if as_json:
        print_json([{**summary_json(sweep), "progress": progress_json(progress_of(sweep))} for sweep in sweeps])
        return
    rows = [
        (s.sweep_id, title(s), s.experiment, s.status.lower(), started_text(s.started), str(s.trials), _outcomes(s), _beginning(s.note))
        for s in sweeps
    ]
    header = ("sweep", "name", "experiment", "status", "started", "trials", "outcomes", "note")
    # Most sweeps have neither a name nor a note.
    kept = [n for n, column in enumerate(header) if column not in ("name", "note") or any(row[n] for row in rows)]
    shown = [[row[n] for n in kept] for row in rows]
    print_table([header[n] for n in kept], shown, empty="no sweeps yet: orchestrate submit GRID")


def _outcomes(sweep: SweepSummary) -> str:
    """Return a sweep's trials by outcome, or, while it runs, how far it is."""
    from orchestrator.cli.progress import progress_of
    from orchestrator.execution.progress import describe

    state = progress_of(sweep)
    return counts_text(sweep) if state is None else describe(state)


def _beginning(note: str) -> str:
    """Return as much of a note as fits into a table."""
    first = one_line(next(iter(note.splitlines()), ""))
    return first if len(first) <= SHOWN_NOTE else f"{first[: SHOWN_NOTE - 1]}…"
