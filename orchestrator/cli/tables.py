"""Tables of trials as commands show them: which trials, which columns, over seeds or one by one, in which format."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import output_option, write_content, write_frame
from orchestrator.cli.output import print_fitting
from orchestrator.cli.verdicts import print_left_out, print_lost
from orchestrator.errors import printable

if TYPE_CHECKING:
    from orchestrator.analysis.results import Results
    from orchestrator.analysis.tables import Table

FORMATS = ("table", "csv", "json", "parquet", "latex", "markdown")
SUFFIXES = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".tex": "latex", ".md": "markdown"}
"""Formats by how a file's name ends."""


@dataclass(frozen=True)
class Asked:
    """What a table is to have, and where it goes."""

    where: str | None
    sort: tuple[str, ...]
    columns: tuple[str, ...]
    by: tuple[str, ...]
    statistic: str
    form: str
    output: Path | None

    def show(self, results: Results, *, columns: Sequence[str] = (), sweeps: bool = False) -> None:
        """Write the table of some trials; ``columns`` are those that it has unless some were asked for, ``sweeps`` adds the sweep."""
        from orchestrator.analysis import tables
        from orchestrator.tracking.read.tables import lost

        names = self.columns or columns
        if self.by:
            table = tables.grouped(results, self.by, where=self.where, sort=self.sort, columns=names, statistic=self.statistic)
            print_left_out(int(results.runs["outcome"].isna().sum()), lost(results.runs))
        else:
            table = tables.listing(results, where=self.where, sort=self.sort, columns=names, sweeps=sweeps)
            print_lost(lost(results.runs))
        _write(table, self.form, self.output)


def table_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return what commands share that show tables of trials, as one `Asked` called ``asked``."""

    @functools.wraps(command)
    def run(
        sort: tuple[str, ...],
        columns: tuple[str, ...],
        by: tuple[str, ...],
        statistic: str | None,
        form: str | None,
        output: Path | None,
        where: str | None,
        **rest: Any,
    ) -> Any:
        from orchestrator.analysis.tables import read_statistic

        if statistic is not None and not by:
            raise click.UsageError("--statistic goes with --by: a statistic is over the trials of a group")
        chosen = read_statistic(statistic or "median[iqr]")
        asked = Asked(where, sort, _listed(columns), _listed(by), chosen, form or _format_of(output), output)
        return command(asked=asked, **rest)

    options = (
        click.option(
            "--where", metavar="CONDITION", help="Only trials that meet this, such as 'factorization.depth == 3 and error < 1e-2'."
        ),
        click.option("--sort", multiple=True, metavar="KEY", help="Sort by this key or expression; -KEY: largest first. May be repeated."),
        click.option("--columns", multiple=True, metavar="NAMES", help="Only these, between commas: names, patterns (sv_*), expressions."),
        click.option(
            "--by", multiple=True, metavar="KEYS", help="A row for each group of trials that agree in these keys; auto: all that vary."
        ),
        click.option(
            "--statistic", metavar="NAME", help="With --by: median[iqr], median[range], mean+-std, median, mean, std, min or max."
        ),
        click.option("--format", "form", type=click.Choice(FORMATS), help="[default: as FILE ends, else table]"),
        output_option,
    )
    for option in reversed(options):
        run = option(run)
    return run


def _listed(given: Sequence[str]) -> tuple[str, ...]:
    from orchestrator.analysis.tables import split_list

    return tuple(item for text in given for item in split_list(text))


def _format_of(output: Path | None) -> str:
    if output is None:
        return "table"
    if output.suffix not in SUFFIXES:
        raise click.UsageError(f"-o {output.name}: give --format, or a name that ends in {', '.join(SUFFIXES)}")
    return SUFFIXES[output.suffix]


def _write(table: Table, form: str, output: Path | None) -> None:
    from orchestrator.analysis import typesetting

    if form in ("latex", "markdown"):
        write_content(getattr(typesetting, form)(table).encode(), output)
    elif form != "table":
        write_frame(table.frame, form, output)
    elif output is not None:
        raise click.UsageError("-o goes with --format csv, json, parquet, latex or markdown")
    else:
        columns, _ = table.split()
        digits = typesetting.DIGITS if table.caption else 6
        print_fitting([column.name for column in columns], typesetting.rows_of(table, columns, digits), empty="no trials")
        for text in typesetting.notes_of(table, lambda value: typesetting.plain_cell(value, 6)):
            click.echo(printable(text))
