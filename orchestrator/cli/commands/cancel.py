"""``orchestrate cancel``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import address_option, sweep_argument, tracking_option
from orchestrator.errors import BusyError, UnavailableError, UsageError

if TYPE_CHECKING:
    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store

WAIT = 90.0
"""Seconds in which a sweep that is alive has saved its trials and ended."""


@click.command("cancel")
@sweep_argument
@tracking_option
@address_option
@click.option("--force", is_flag=True, help="If nothing answers, say of the sweep that it has ended: its machine is gone for good.")
def command(sweep: str, tracking_uri: str | None, address: str | None, force: bool) -> None:
    """Let SWEEP save its trials and end, wherever it runs. `orchestrate resume SWEEP` goes on with it.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest. With --address http://… an id is enough,
    even if MLflow has not heard of the sweep yet.

    \b
    Example:
      orchestrate cancel
      orchestrate cancel 3f9a27c1 --address http://head:8265
    """
    from orchestrator.cluster.addresses import check_known, is_job_address
    from orchestrator.cluster.jobs import Jobs
    from orchestrator.sweeps.resume import is_alive, job_of
    from orchestrator.tracking import layout
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    if address is not None and is_job_address(address):
        _stop_job(address, sweep)
        return
    store = open_existing(tracking_uri)
    found = find_sweep(store, sweep)
    if found.status != "RUNNING":
        click.echo(f"sweep {found.sweep_id} is not running: it is {found.status.lower()}", err=True)
        return
    host = found.tags.get(layout.HOST, "another machine")
    alive = is_alive(found)
    if alive is not False:
        store.tag(found.parent_run_id, layout.CANCEL, str(int(time.time())))
        click.echo(f"sweep {found.sweep_id} on {host} is asked to save its trials and to end", err=True)
        until = time.monotonic() + WAIT
        while time.monotonic() < until and is_alive(found) is not False:
            time.sleep(0.5)
            if _has_ended(store, found):
                return
        if _has_ended(store, found):
            return
        if (job := job_of(found)) is not None and not force:
            check_known(job[1])
            Jobs(job[1]).stop(job[0])
            click.echo(f"it does not answer: its job {job[0]} is stopped", err=True)
            return
        if is_alive(found) is not False and not force:
            _see_gone(store, found)
    # It may have since it was read.
    if not _has_ended(store, found):
        store.end(found.parent_run_id, "KILLED")
        goes_on = f"`orchestrate resume {found.sweep_id}` goes on with it"
        click.echo(f"the process of sweep {found.sweep_id} is gone; it is marked as killed: {goes_on}")


def _see_gone(store: Store, sweep: SweepSummary) -> None:
    """Find out whether anybody still has the turn to write that a sweep has while it runs. Raises `UnavailableError` if so."""
    from orchestrator.tracking.turns import experiment_turn

    try:
        with experiment_turn(store, sweep.experiment, patient=False):
            return
    except BusyError as error:
        raise UnavailableError(
            f"sweep {sweep.sweep_id} does not answer, and a process on {error.host} still writes to its experiment; "
            "if it is gone for good, --force says of the sweep that it has ended"
        ) from None


def _stop_job(address: str, sweep: str) -> None:
    """Stop the job of a sweep, whether MLflow has heard of it or not."""
    from orchestrator.cluster.jobs import Jobs, job_id

    jobs = Jobs(address)
    if not jobs.stop(job_id(sweep)):
        raise UsageError(f"{jobs.address} has no job {job_id(sweep)} that is running: with --address, the whole id of a sweep is needed")
    click.echo(f"sweep {sweep} is asked to save its trials and to end: `orchestrate resume {sweep}` goes on with it")


def _has_ended(store: Store, sweep: SweepSummary) -> bool:
    """Return whether a sweep has said how it ended, and then say so here."""
    status = store.status(sweep.parent_run_id)
    if status == "RUNNING":
        return False
    how = "is complete" if status == "FINISHED" else f"has ended: `orchestrate resume {sweep.sweep_id}` goes on with it"
    click.echo(f"sweep {sweep.sweep_id} {how}")
    return True
