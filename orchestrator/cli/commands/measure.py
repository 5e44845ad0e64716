"""``orchestrate measure``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import click

from orchestrator.cli.options import storage_option, tracking_option, with_option
from orchestrator.cli.tables import Asked, table_options

REFERENCE = "An array of an .npz file that a measure distance_to_NAME is against, beside those of record.references; may be repeated."


@click.command("measure")
@click.argument("sweep")
@click.argument("names", metavar="MEASURE...", nargs=-1, required=True)
@table_options
@with_option
@click.option("--reference", "references", multiple=True, metavar="NAME=FILE:ARRAY", help=REFERENCE)
@tracking_option
@storage_option
def command(
    sweep: str,
    names: tuple[str, ...],
    asked: Asked,
    modules: tuple[str, ...],
    references: tuple[str, ...],
    tracking_uri: str | None,
    storage: str | None,
) -> None:
    """Compute measures that SWEEP did not record from the final factors of its trials, and print them.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest; MEASURE is a name as in a grid's
    record.measures. --where picks trials by what was recorded; the other options are those of `orchestrate runs`, in which the new
    columns are like any other. Nothing is added to MLflow: what a sweep has there is what its grid recorded.

    \b
    Example:
      orchestrate measure figure1 schatten_0.3 stable_rank
      orchestrate measure latest schatten_0.3 --by factorization.depth --columns "error,schatten_0.3" -o table.tex
      orchestrate measure latest distance_to_found --reference found=runs/w.npz:W
    """
    import numpy as np

    from orchestrator.grid.questions import SEEDS
    from orchestrator.storage.base import open_storage
    from orchestrator.sweeps.measure import measured_results
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    where, found = open_storage(storage), find_sweep(store, sweep)
    results, measured = measured_results(store, where, found, names, asked.where, modules=modules, references=_by_name(references))
    seeds = [key for key in SEEDS if key in results.runs and results.runs[key].nunique() > 1]
    told_apart = ["trial_id", *results.varying(np.arange(len(results))), *seeds]
    # Of which trials, has been looked at.
    replace(asked, where=None).show(results, columns=measured if asked.by else [*told_apart, *measured])


def _by_name(texts: Sequence[str]) -> dict[str, str]:
    """Return ``NAME=FILE:ARRAY`` texts as files and arrays by their names. Raises `click.UsageError`."""
    pairs = [text.partition("=") for text in texts]
    wrong = next((text for text, (name, _, file) in zip(texts, pairs, strict=True) if not (name and file)), None)
    if wrong is not None:
        raise click.UsageError(f"--reference {wrong}: must be NAME=FILE:ARRAY, such as found=runs/w.npz:W")
    return {name: file for name, _, file in pairs}
