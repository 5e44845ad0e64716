"""``orchestrate compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import output_option, tracking_option, write_frame
from orchestrator.cli.output import print_table
from orchestrator.cli.verdicts import print_lost

if TYPE_CHECKING:
    from orchestrator.analysis.compare import Comparison


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--measure", "measures", multiple=True, metavar="NAME", help="Compare only this measure; may be repeated.")
@click.option("--by", multiple=True, metavar="KEY", help="Group by this key of the spec; may be repeated [default: all that vary].")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json", "parquet"]), default="table", show_default=True)
@output_option
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Draw it, too: a file that ends in html, png, svg or pdf.")
@tracking_option
def command(
    a: str,
    b: str,
    measures: tuple[str, ...],
    by: tuple[str, ...],
    form: str,
    output: Path | None,
    figure: Path | None,
    tracking_uri: str | None,
) -> None:
    """Compare the final measures of sweeps A and B: trials with matching specs, over seeds.

    What differs between the sweeps as a whole is what was changed; all other keys have to agree. The interval is a 95 % bootstrap
    interval of the median difference B - A, of pairs of the same seed where there are such; a measure has moved if it leaves out zero.

    \b
    Example:
      orchestrate compare 1f3a 9c2e
      orchestrate compare before after --measure error --by factorization.depth --figure moved.pdf
    """
    from orchestrator.analysis.compare import compare, draw_comparison
    from orchestrator.analysis.figures import FORMATS, rendered
    from orchestrator.analysis.results import Results
    from orchestrator.files import write_file
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
    found = compare(first, second, measures, by or None)
    names = (f"A {sweeps[0].sweep_id}", f"B {sweeps[1].sweep_id}")
    if figure is not None:
        drawn = rendered(draw_comparison(found), [figure.suffix[1:]])
        write_file(figure, drawn[figure.suffix[1:]])
    if form == "table":
        _print(found, names)
    else:
        write_frame(found.table, form, output)


def _print(found: Comparison, names: tuple[str, str]) -> None:
    for key, (before, after) in found.differs.items():
        click.echo(f"{key}: {before} in {names[0]}, {after} in {names[1]}")
    for name, left_out in zip(names, found.unmatched, strict=True):
        if left_out:
            click.echo(f"{left_out} trials of {name} have no counterpart and are left out", err=True)
    header = (*found.keys, "measure", "trials", "A", "B", "mean of B-A", "median of B-A", "95 % interval", "moved")
    rows = []
    for row in found.table.to_dict("records"):
        numbers = [f"{row[name]:.4g}" for name in ("a", "b", "mean", "median")]
        count = f"{row['trials']}{' pairs' if row['paired'] else ''}"
        keys = ["" if row[key] is None else str(row[key]) for key in found.keys]
        interval = f"[{row['low']:.4g}, {row['high']:.4g}]"
        rows.append((*keys, row["measure"], count, *numbers, interval, "yes" if row["moved"] else "no"))
    print_table(header, rows, empty="no measure is finite in both sweeps")
