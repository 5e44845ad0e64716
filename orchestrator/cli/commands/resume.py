"""``orchestrate resume``."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import json_option, running_options, sweep_argument, with_option
from workloads.amounts import ended_of

if TYPE_CHECKING:
    from orchestrator.options import Options


@click.command("resume")
@sweep_argument
@with_option
@running_options
@json_option
def command(sweep: str, modules: tuple[str, ...], options: Options, detach: bool, as_json: bool) -> None:
    """Go on with SWEEP, which was interrupted or whose process died: its grid, from its last checkpoints.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest. The same as to submit its grid again,
    without the need to have it. Code of your own that it was submitted with runs as it was then: --with only sees that it is the same.

    \b
    Example:
      orchestrate resume
      orchestrate resume 3f9a --address 10.0.0.5:6379
    """
    from orchestrator.cli.commands.submit import start
    from orchestrator.errors import BusyError, UsageError
    from orchestrator.storage.base import open_storage
    from orchestrator.sweeps.resume import grid_of, is_alive
    from orchestrator.tracking import layout
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing
    from orchestrator.tracking.turns import experiment_turn

    store = open_existing(options.tracking_uri)
    found = find_sweep(store, sweep)
    if found.status == "FINISHED":
        click.echo(f"sweep {found.sweep_id} is complete: {ended_of(found.trials, found.trials)}", err=True)
        return
    alive = is_alive(found, options.address)
    if alive is None:
        click.echo(f"looking whether sweep {found.sweep_id} still runs on {found.tags.get(layout.HOST, 'another machine')}", err=True)
        with suppress(BusyError), experiment_turn(store, found.experiment, patient=False):
            alive = False
    if alive is not False:
        raise UsageError(
            f"sweep {found.sweep_id} is running on {found.tags.get(layout.HOST, 'another machine')}: `orchestrate cancel "
            f"{found.sweep_id}` ends it"
        )
    place = options.storage or found.tags.get(layout.STORAGE)
    grid = grid_of(store, open_storage(place), found, modules, for_work=True)
    start(grid, dataclasses.replace(options, storage=place), as_json, detach)
