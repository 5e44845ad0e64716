"""``orchestrate rerun``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import json_option, running_options, with_option

if TYPE_CHECKING:
    from orchestrator.options import Options


@click.command("rerun")
@click.argument("sweep")
@click.argument("trials", nargs=-1, required=True, metavar="TRIAL...")
@click.option("--record", "record", multiple=True, metavar="KEY=VALUE", help="Record otherwise: points=1000, say; may be repeated.")
@with_option
@running_options
@json_option
def command(
    sweep: str, trials: tuple[str, ...], record: tuple[str, ...], modules: tuple[str, ...], options: Options, detach: bool, as_json: bool
) -> None:
    """Run some trials of SWEEP once more, to see more of them: a finer trace, other measures, checkpoints.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest; each TRIAL the beginning of an id. They
    become a sweep of their own in the same experiment, and come to the same numbers.

    \b
    Example:
      orchestrate rerun figure1 4cf3 --record points=2000 --record "measures=[nuclear, singular_values]"
      orchestrate rerun latest 4cf3 88a0 --record "checkpoint_steps=[100, 1000]"
    """
    from orchestrator.cli.commands.submit import start
    from orchestrator.storage.base import open_storage
    from orchestrator.sweeps.rerun import rerun_grid
    from orchestrator.tracking import layout
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    store = open_existing(options.tracking_uri)
    found = find_sweep(store, sweep)
    grid = rerun_grid(store, open_storage(options.storage or found.tags.get(layout.STORAGE)), found, trials, record, modules)
    start(grid, dataclasses.replace(options, fresh=True), as_json, detach)
