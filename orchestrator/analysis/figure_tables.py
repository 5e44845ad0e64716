"""Numbers beside a figure: CSV, and a table for LaTeX with rules of the package booktabs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import one_line

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("csv", "tex")


@dataclass(frozen=True)
class Table:
    """Rows about a ``subject``, and how they stand on a page: each in a cell [N], under a heading, in the line that ``lines`` say.

    ``columns`` are the headings in their order, once each.
    ``lines`` are texts, a column for each of those on the left; a row of which one is empty stands in every line with the others.
    """

    subject: str
    rows: pd.DataFrame
    lines: pd.DataFrame
    columns: Sequence[str]
    headings: Sequence[str]
    cells: Sequence[str]
    """As LaTeX has them."""


def as_csv(table: Table) -> str:
    """Return the rows, with an empty cell for what is missing."""
    # Whole numbers are written so, beside what is missing, too.
    text: str = table.rows.convert_dtypes().to_csv(index=False, lineterminator="\n")
    return text


def as_latex(table: Table) -> str:
    """Return a ``tabular``."""
    from orchestrator.analysis.typesetting import escaped, tabular

    whole = table.lines[(table.lines != "").all(axis=1)].drop_duplicates()
    page = []
    for line in whole.itertuples(index=False):
        there = ((table.lines == list(line)) | (table.lines == "")).all(axis=1)
        found = {heading: cell for heading, cell, here in zip(table.headings, table.cells, there, strict=True) if here}
        page.append([*map(escaped, line), *(found.get(column, "--") for column in table.columns)])
    left = list(table.lines.columns)
    lines = tabular([*left, *table.columns], page, "l" * len(left) + "r" * len(table.columns))
    return "\n".join([f"% {one_line(table.subject)}: \\usepackage{{booktabs}}", *lines]) + "\n"


WRITERS: Mapping[str, Callable[[Table], str]] = {"csv": as_csv, "tex": as_latex}
"""By the format."""
