"""``orchestrate rm``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import storage_option, tracking_option
from orchestrator.cli.output import started_text
from orchestrator.tracking.uris import is_http
from workloads.amounts import amount

if TYPE_CHECKING:
    from orchestrator.sweeps.remove import Removal
    from orchestrator.tracking.read.queries import SweepSummary


@click.command("rm")
@click.argument("sweeps", metavar="SWEEP...", nargs=-1, required=True)
@tracking_option
@storage_option
@click.option("--with-reused", is_flag=True, help="Delete trials that other sweeps reuse, too: these have them as deleted then.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def command(sweeps: tuple[str, ...], tracking_uri: str | None, storage: str | None, with_reused: bool, yes: bool) -> None:
    """Delete each SWEEP: its runs in MLflow, its checkpoints, and results that wait for MLflow.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest. A sweep that is running is not deleted.
    Trials that other sweeps reuse stay: they become theirs.

    \b
    Example:
      orchestrate rm 3f9a27c1
      orchestrate rm 3f9a27c1 81b0 --with-reused --yes
    """
    from orchestrator.errors import UsageError
    from orchestrator.sweeps.remove import prepare, remove
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    found = list({sweep.sweep_id: sweep for sweep in (find_sweep(store, name) for name in sweeps)}.values())
    ids = [sweep.sweep_id for sweep in found]
    _print_removals([prepare(store, sweep, ids, storage) for sweep in found], with_reused)
    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError("nothing was deleted: where nobody can be asked, --yes is needed")
        if not click.confirm("delete?", err=True):
            click.echo("nothing was deleted", err=True)
            return
    remove(store, found, storage, with_reused=with_reused, removed=_print_removed)
    where = "URI`, on its server," if is_http(store.uri) else f"{store.display}`"
    click.echo(f"MLflow keeps what is deleted until `mlflow gc --backend-store-uri {where} deletes it for good", err=True)


def _print_removed(sweep: SweepSummary, runs: int) -> None:
    click.echo(f"sweep {sweep.sweep_id} of {sweep.experiment} is deleted, with {runs:,} run{'s' if runs != 1 else ''} of MLflow")


def _print_removals(removals: Sequence[Removal], with_reused: bool) -> None:
    for one in removals:
        sweep = one.sweep
        name = f"sweep {sweep.sweep_id} of {sweep.experiment}, started {started_text(sweep.started)}"
        click.echo(f"{name}: {amount(sweep.trials - sweep.reused, 'trial')} of its own", err=True)
        for reuse in one.reused:
            are, them = ("is", "it") if len(reuse.trials) == 1 else ("are", "them")
            what = f"and {are} deleted, too" if with_reused else f"which keeps {them}"
            click.echo(f"  {len(reuse.trials):,} of them {are} reused by sweep {reuse.sweep.sweep_id}, {what}", err=True)
        if one.waiting:
            waiting = amount(one.waiting, "batch", "batches")
            click.echo(f"  {waiting} of results that MLflow does not have yet: `orchestrate sync` would bring them", err=True)
