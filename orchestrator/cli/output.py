"""Tables and sweeps as text."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from orchestrator.errors import one_line, printable

if TYPE_CHECKING:
    from orchestrator.tracking.read.queries import SweepSummary


def drop_unread() -> None:
    """Let what nobody reads any more go nowhere: Python would complain of it when it closes its streams, and end with a code of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def unread() -> Iterator[None]:
    """Go on where the reader of what is printed has gone: what was to be done is done, and the exit code says how."""
    try:
        yield
    except BrokenPipeError:
        pass
    finally:
        drop_unread()


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Columns aligned by width; on a terminal, lines are cut at its edge."""
    if not rows:
        click.echo(empty, err=True)
        return
    # What a store or a file from elsewhere says moves no cursor.
    header, rows = [*map(printable, header)], [[*map(printable, row)] for row in rows]
    widths = [max(len(row[n]) for row in (header, *rows)) for n in range(len(header))]
    edge = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in (header, *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(line if edge is None or len(line) <= edge else line[: edge - 1] + "…")


def print_fitting(header: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Columns aligned by width; on a terminal, columns for which it has no room are named below instead."""
    count = len(header)
    if sys.stdout.isatty():
        edge = shutil.get_terminal_size().columns
        widths = [max(len(row[n]) for row in (header, *rows)) for n in range(count)]
        while count > 1 and sum(widths[:count]) + 2 * (count - 1) > edge:
            count -= 1
    print_table(header[:count], [row[:count] for row in rows], empty=empty)
    if count < len(header):
        click.echo(f"no room for {', '.join(header[count:])}: --columns picks, --format csv has all")


def counts_text(sweep: SweepSummary) -> str:
    """Return the trials by outcome, as far as they have one."""
    parts = [f"{count} {outcome}" for outcome, count in sweep.counts.items() if count]
    if sweep.reused:
        parts.append(f"{sweep.reused} reused")
    return ", ".join(parts)


def title(sweep: SweepSummary) -> str:
    """Return the name that somebody gave a sweep; empty if nobody did."""
    from orchestrator.tracking import layout

    return "" if sweep.name == layout.sweep_name(sweep.sweep_id) else one_line(sweep.name)


def started_text(seconds: float) -> str:
    """Local time to the second."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def summary_json(sweep: SweepSummary) -> dict[str, Any]:
    """Return a sweep as plain data."""
    return {key: value for key, value in asdict(sweep).items() if key != "tags"} | {"note": sweep.note}
