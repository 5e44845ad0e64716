"""``orchestrate runs``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import output_option, sweeps_argument, tracking_option, write_content, write_frame
from orchestrator.cli.output import print_fitting
from orchestrator.cli.verdicts import print_left_out, print_lost

if TYPE_CHECKING:
    from orchestrator.analysis.results import Results
    from orchestrator.analysis.tables import Table

FORMATS = ("table", "csv", "json", "parquet", "latex", "markdown")
SUFFIXES = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".tex": "latex", ".md": "markdown"}
"""Formats by how a file's name ends."""


@click.command("runs")
@sweeps_argument
@click.option("--where", metavar="CONDITION", help="Only trials that meet this, such as 'factorization.depth == 3 and error < 1e-2'.")
@click.option("--sort", multiple=True, metavar="KEY", help="Sort by this key or expression; -KEY: largest first. May be repeated.")
@click.option("--columns", multiple=True, metavar="NAMES", help="Only these, between commas: names, patterns (sv_*), expressions.")
@click.option("--by", multiple=True, metavar="KEYS", help="A row for each group of trials that agree in these keys; auto: all that vary.")
@click.option("--statistic", metavar="NAME", help="With --by: median[iqr], median[range], mean+-std, median, mean, std, min or max.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="[default: as FILE ends, else table]")
@output_option
@tracking_option
def command(
    sweeps: tuple[str, ...],
    where: str | None,
    sort: tuple[str, ...],
    columns: tuple[str, ...],
    by: tuple[str, ...],
    statistic: str | None,
    form: str | None,
    output: Path | None,
    tracking_uri: str | None,
) -> None:
    """Print one line per trial of SWEEP: its outcome, its spec and its final measures. Or, with --by, one per group of trials.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest. Of several sweeps, trials that they share
    count once, and `sweep` is a column. What people read (table, latex, markdown) leaves out what is the same for all trials and says it
    below; the other formats have every column. A trial whose run was deleted in MLflow has the outcome `deleted`.

    With --by, trials that have ended are taken together over seeds. What a diverged trial measured counts as infinite, so a mean with it
    is infinite, too; a failed trial has no measures. Both are counted. A column `rate(CONDITION)` is the share of trials that meet it.

    \b
    Example:
      orchestrate runs
      orchestrate runs figure1 -o runs.csv
      orchestrate runs --where "factorization.depth == 3" --sort -error --columns "seed,error,sv_*,abs(entry_0_0)"
      orchestrate runs --by factorization.depth,init.scale --columns "error,rate(error < 1e-2)" --statistic mean+-std -o table.tex
    """
    from orchestrator.analysis import tables
    from orchestrator.analysis.results import Results
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.read.tables import lost
    from orchestrator.tracking.store import open_existing

    form = form or _format_of(output)
    if statistic is not None and not by:
        raise click.UsageError("--statistic goes with --by: a statistic is over the trials of a group")
    keys, names = (_listed(given) for given in (by, columns))
    measured = tables.read_statistic(statistic or "median[iqr]")
    store = open_existing(tracking_uri)
    results = Results.load(store, [find_sweep(store, sweep) for sweep in sweeps or ("latest",)])
    if keys:
        table = tables.grouped(results, keys, where=where, sort=sort, columns=names, statistic=measured)
        print_left_out(_pending(results), lost(results.runs))
    else:
        table = tables.listing(results, where=where, sort=sort, columns=names, sweeps=len(sweeps) > 1)
        print_lost(lost(results.runs))
    _write(table, form, output)


def _listed(given: Sequence[str]) -> list[str]:
    from orchestrator.analysis.tables import split_list

    return [item for text in given for item in split_list(text)]


def _format_of(output: Path | None) -> str:
    if output is None:
        return "table"
    if output.suffix not in SUFFIXES:
        raise click.UsageError(f"-o {output.name}: give --format, or a name that ends in {', '.join(SUFFIXES)}")
    return SUFFIXES[output.suffix]


def _pending(results: Results) -> int:
    return int(results.runs["outcome"].isna().sum())


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
            click.echo(text)
