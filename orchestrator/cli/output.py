"""Tables and sweeps as text."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from orchestrator.tracking.read.queries import SweepSummary


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Columns aligned by width; on a terminal, lines are cut at its edge."""
    if not rows:
        click.echo(empty, err=True)
        return
    widths = [max(len(row[n]) for row in (header, *rows)) for n in range(len(header))]
    edge = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in (header, *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(line if edge is None or len(line) <= edge else line[: edge - 1] + "…")


def counts_text(sweep: SweepSummary) -> str:
    """Return the trials by outcome, as far as they have one."""
    parts = [f"{count} {outcome}" for outcome, count in sweep.counts.items() if count]
    if sweep.reused:
        parts.append(f"{sweep.reused} reused")
    return ", ".join(parts)


def started_text(seconds: float) -> str:
    """Local time to the second."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def summary_json(sweep: SweepSummary) -> dict[str, Any]:
    """Return a sweep as plain data."""
    return {key: value for key, value in asdict(sweep).items() if key != "tags"}
