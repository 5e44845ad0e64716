"""The table of trials of a page, which its reader sorts and filters."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.analysis.results import Results
from orchestrator.analysis.tables import AUTO, Table, grouped, listing
from orchestrator.analysis.typesetting import DIGITS, is_numeric, notes_of, plain_cell, rows_of
from workloads.amounts import amount

MOST_TRIALS = 2000
"""Of more trials, statistics over seeds are shown."""
MOST_ROWS = 4000
"""Rows beyond which a page is too large to be sent around."""
_EXACT = 6


@dataclass(frozen=True)
class Shown:
    """A table as text: its header, which of its columns are numbers, its rows, and what is to be said of it."""

    header: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def table_of(results: Results, most: int = MOST_TRIALS) -> Shown:
    """Return a row for each trial, or, where these are more than ``most``, one for each group of trials that differ in seeds alone."""
    if len(results) <= most:
        return _shown(listing(results), _EXACT)
    said = f"of {amount(len(results), 'trial')} a row for each setting, over its seeds: `orchestrate runs` lists every trial"
    return _shown(grouped(results, [AUTO]), DIGITS, said)


def _shown(table: Table, digits: int, *said: str) -> Shown:
    columns, _ = table.split()
    rows = tuple(map(tuple, rows_of(table, columns, digits)))
    notes = [*said, *notes_of(table, lambda value: plain_cell(value, _EXACT))]
    if len(rows) > MOST_ROWS:
        notes.append(f"the first {MOST_ROWS:,} of {len(rows):,} rows")
    header = tuple(column.name for column in columns)
    return Shown(header, tuple(is_numeric(table, column) for column in columns), rows[:MOST_ROWS], tuple(notes))
