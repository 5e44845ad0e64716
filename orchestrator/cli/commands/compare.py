"""``orchestrate compare``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import output_option, tracking_option, write_frame
from orchestrator.cli.output import print_table
from orchestrator.cli.verdicts import print_lost
from workloads.amounts import agreeing, amount

if TYPE_CHECKING:
    from orchestrator.analysis.compare import Comparison


PAIRS, TRIALS = 6, 4
"""The fewest pairs, or trials a side, of which an interval can have 95 % (`orchestrator.analysis.statistics.attainable`)."""


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--measure", "measures", multiple=True, metavar="NAME", help="Compare only this measure; may be repeated.")
@click.option("--where", metavar="CONDITION", help="Compare only trials that meet this, such as 'factorization.depth == 3'.")
@click.option("--by", multiple=True, metavar="KEY", help="Group by this key of the spec; may be repeated [default: all that vary].")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json", "parquet"]), default="table", show_default=True)
@output_option
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Draw it, too: a file that ends in html, png, svg or pdf.")
@tracking_option
def command(
    a: str,
    b: str,
    measures: tuple[str, ...],
    where: str | None,
    by: tuple[str, ...],
    form: str,
    output: Path | None,
    figure: Path | None,
    tracking_uri: str | None,
) -> None:
    """Compare the final measures of sweeps A and B: trials with matching specs, over seeds.

    Trials match if they agree in all keys but seeds; of the rest, those that agree in all but what differs between the rest of A and of B
    as a whole, which is what was changed. Runs that are in both sweeps are set aside if there is anything else to compare. The interval is
    a 95 % bootstrap interval of the median difference B - A, of pairs of the same seed where one side has all seeds of the other; a measure
    has moved if it leaves out zero, as one in twenty does by chance. What a diverged trial measured counts as infinite.

    \b
    Example:
      orchestrate compare 1f3a 9c2e
      orchestrate compare before after --measure error --by factorization.depth --figure moved.pdf
      orchestrate compare before after --where "factorization.kind == 'cp'"
    """
    from orchestrator.analysis.compare import compare
    from orchestrator.analysis.rendering import FORMATS
    from orchestrator.analysis.results import Results
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.read.tables import lost
    from orchestrator.tracking.store import open_existing

    if figure is not None and figure.suffix[1:] not in FORMATS:
        raise click.UsageError(f"--figure must end in {', '.join(FORMATS)}, not {figure.name!r}")
    if form == "table" and output is not None:
        form = "csv"
    store = open_existing(tracking_uri)
    sweeps = [find_sweep(store, reference) for reference in (a, b)]
    first, second = (Results.load(store, [sweep]) for sweep in sweeps)
    for sweep, results in zip(sweeps, (first, second), strict=True):
        print_lost(f"sweep {sweep.sweep_id}: {text}" for text in lost(results.runs))
    found = compare(first, second, measures, by or None, where)
    names = (f"A {sweeps[0].sweep_id}", f"B {sweeps[1].sweep_id}")
    if figure is not None:
        _draw(found, figure)
    for text in _notes(found, names):
        click.echo(text, err=form != "table")
    if form == "table":
        _print(found)
    else:
        write_frame(found.table, form, output)


def _draw(found: Comparison, path: Path) -> None:
    from orchestrator.analysis.compare import draw_comparison
    from orchestrator.analysis.figures import spec_of
    from orchestrator.analysis.rendering import rendered
    from orchestrator.files import write_file

    form = path.suffix[1:]
    write_file(path, rendered(spec_of(draw_comparison(found)), [form])[form])


def _notes(found: Comparison, names: tuple[str, str]) -> Iterator[str]:
    """Yield what was changed, matched and left out."""
    for key, (before, after) in found.differs.items():
        yield f"{key}: {_text(before)} in {names[0]}, {_text(after)} in {names[1]}"
    yield "matched: " + ", ".join(f"{amount(count, 'trial')} of {name}" for count, name in zip(found.matched, names, strict=True))
    for name, count in zip(names, found.unmatched, strict=True):
        if count:
            yield f"left out: {amount(count, 'trial')} of {name}, which {agreeing(count, 'has', 'have')} no counterpart"
    if found.same:
        are, those = agreeing(found.same, "is", "are"), agreeing(found.same, "in that", "between those")
        then = f", and {are} left out" if found.set_aside else f": {those} nothing can have moved"
        yield f"{amount(found.same, 'run')} {are} in both sweeps{then}"
    rows = [row for row in found.table.to_dict("records") if not row["same"]]
    if few := sum(row["trials"] < (PAIRS if row["paired"] else TRIALS) for row in rows):
        yield f"too few trials: {few} of {len(rows)} intervals carry less than 95 %: of fewer than {PAIRS} pairs, or {TRIALS} a side"


def _text(value: object) -> str:
    return "nothing" if value is None else str(value)


def _print(found: Comparison) -> None:
    import pandas as pd

    from orchestrator.analysis.statistics import number

    diverged = ("diverged",) if (found.table[["diverged_a", "diverged_b"]] > 0).any(axis=None) else ()
    header = (*found.keys, "measure", "trials", *diverged, "A", "B", "mean of B-A", "median of B-A", "95 % interval", "moved")
    rows = []
    for row in found.table.to_dict("records"):
        numbers = [number(row[name], 4) for name in ("a", "b", "mean", "median")]
        count = f"{row['trials']}{' pairs' if row['paired'] else ''}"
        keys = ["" if pd.isna(row[key]) else str(row[key]) for key in found.keys]
        interval = f"[{number(row['low'], 4)}, {number(row['high'], 4)}]"
        moved = "same runs" if row["same"] else "yes" if row["moved"] else "no"
        over = [f"{row['diverged_a']} and {row['diverged_b']}"] if diverged else []
        rows.append((*keys, row["measure"], count, *over, *numbers, interval, moved))
    print_table(header, rows, empty="no measure has a value in both sweeps")
