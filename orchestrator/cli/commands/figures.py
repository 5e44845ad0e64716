"""``orchestrate figures``."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.analysis import figure_tables
from orchestrator.analysis.rendering import FORMATS
from orchestrator.cli.options import tracking_option
from orchestrator.cli.verdicts import print_figures, print_left_out

ALL_FORMATS = (*FORMATS, *figure_tables.FORMATS)


@click.command("figures")
@click.argument("sweeps", metavar="[SWEEP]...", nargs=-1)
@click.option("--grid", "grid", type=click.Path(path_type=Path), help="Draw the figures of this file instead of the first sweep's own.")
@click.option("--draw", "inline", metavar="YAML", help="Draw this figure alone, such as '{kind: trajectories, x: step, y: loss, log: y}'.")
@click.option("--only", "only", multiple=True, metavar="NAME", help="Draw only this figure; may be repeated.")
@click.option("--format", "formats", multiple=True, type=click.Choice(ALL_FORMATS), help="May be repeated [default: all].")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder, the only place then [default: figures/EXPERIMENT/SWEEP].",
)
@tracking_option
def command(
    sweeps: tuple[str, ...],
    grid: Path | None,
    inline: str | None,
    only: tuple[str, ...],
    formats: tuple[str, ...],
    output: Path | None,
    tracking_uri: str | None,
) -> None:
    """Draw the figures of a grid from the runs of one SWEEP or several: HTML that opens offline, PNG, SVG and PDF;
    the numbers of those that have a table, as CSV and for LaTeX, too.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest. Figures of a single sweep are added to
    its MLflow run, unless they were asked for with --draw or -o. Of several sweeps, trials that they share count once, and `sweep` is a
    key like any other.

    \b
    Example:
      orchestrate figures figure1 --format pdf -o paper
      orchestrate figures latest --draw '{kind: medians, x: factorization.depth, y: error, log: y}'
    """
    from orchestrator.analysis.report import folder_of, questions_of, report
    from orchestrator.errors import UsageError
    from orchestrator.grid.load import load_questions, parse_questions
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    if sum(given is not None for given in (grid, inline)) > 1:
        raise click.UsageError("give --grid or --draw, not both")
    store = open_existing(tracking_uri)
    found = [find_sweep(store, sweep) for sweep in sweeps or ("latest",)]
    if inline is not None:
        figures = parse_questions(f"figures: {{figure: {inline}}}", "--draw")[0]
    else:
        figures = (load_questions(grid) if grid is not None else questions_of(store, found[0]))[0]
    unknown = [name for name in only if name not in figures]
    if unknown:
        raise UsageError(f"there is no figure {unknown[0]!r}; there are {', '.join(figures) or 'none'}")
    if only:
        figures = {name: figures[name] for name in only}
    if not figures:
        raise UsageError(
            f"the grid of sweep {found[0].sweep_id} asks for no figures: give one with --draw, or a grid file that has some with --grid"
        )
    log = inline is None and output is None
    done = report(store, found, figures, {}, output or folder_of(found), formats=formats or ALL_FORMATS, log=log)
    print_figures(done.files, done.undrawn)
    print_left_out(done.pending, done.lost)
    raise click.exceptions.Exit(0 if done.sound else 1)
