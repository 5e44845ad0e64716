"""``orchestrate sync``."""

from __future__ import annotations

from contextlib import suppress

import click

from orchestrator.cli.options import storage_option, tracking_option
from workloads.amounts import amount


@click.command("sync")
@click.argument("sweep", required=False)
@tracking_option
@storage_option
def command(sweep: str | None, tracking_uri: str | None, storage: str | None) -> None:
    """Bring to MLflow what has been computed while it could not be reached: of SWEEP, an id, or of all sweeps in the storage.

    \b
    Example:
      orchestrate sync
      orchestrate sync 3f9a27c1 --storage s3://bucket/sweeps
    """
    from orchestrator.errors import UsageError
    from orchestrator.storage.base import open_storage
    from orchestrator.sweeps.resume import sync
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    store, place = open_existing(tracking_uri), open_storage(storage)
    found = 0
    for done in sync(store, place, sweep):
        found += 1
        click.echo(f"sweep {done.sweep_id} of {done.experiment}: {amount(done.delivered, 'trial')} brought to MLflow, {done.state}")
    if not found and sweep is not None:
        with suppress(UsageError):
            there = find_sweep(store, sweep)
            if there.status == "FINISHED":
                click.echo(f"sweep {there.sweep_id} is complete: MLflow has it all", err=True)
                return
        raise UsageError(f"nothing in {place.url} is of a sweep {sweep!r} of {store.display}")
    if not found:
        click.echo(f"nothing in {place.url} waits for {store.display}", err=True)
