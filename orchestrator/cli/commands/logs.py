"""``orchestrate logs``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import INTERRUPTED, address_option, sweep_argument, tracking_option
from orchestrator.errors import printable, printable_lines
from orchestrator.tracking.uris import is_http

if TYPE_CHECKING:
    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store

SECONDS = 1.0
SERVER_SECONDS = 3.0
"""How often a sweep that is followed is looked at, in a database and on a server. It says something new every three seconds."""


@click.command("logs")
@sweep_argument
@tracking_option
@address_option
@click.option("-f", "--follow", "following", is_flag=True, help="Go on showing what it says, and how far it is, until it ends.")
def command(sweep: str, tracking_uri: str | None, address: str | None, following: bool) -> None:
    """Show what SWEEP has said: of a job on a cluster all of it, as it comes; of any other sweep its notes, a few seconds after it has said
    them. With --follow, go on until it ends.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest. With --address http://… an id is enough,
    even if MLflow has not heard of the sweep yet.

    \b
    Example:
      orchestrate logs
      orchestrate logs 3f9a27c1 --follow --address http://head:8265
    """
    from orchestrator.cli.remote import follow
    from orchestrator.cluster.addresses import check_known, is_job_address
    from orchestrator.cluster.jobs import Jobs, job_id
    from orchestrator.errors import UsageError
    from orchestrator.sweeps.resume import job_of
    from orchestrator.tracking import layout
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    if address is not None and is_job_address(address):
        jobs = Jobs(address)
        job, name = job_id(sweep), sweep
        if jobs.status(job) is None:
            raise UsageError(f"{jobs.address} knows of no job {job}: with --address, the whole id of a sweep is needed")
    else:
        store = open_existing(tracking_uri)
        found = find_sweep(store, sweep)
        where = job_of(found)
        if where is None:
            if following and found.status == "RUNNING":
                _follow(store, found)
                return
            _print_notes(store.texts(found.parent_run_id, layout.LOGS_FOLDER), found.sweep_id, found.status)
            return
        check_known(where[1])
        job, name, jobs = where[0], found.sweep_id, Jobs(where[1])
    if following:
        follow(jobs, job, name, as_json=False)
    click.echo(jobs.logs(job), nl=False)


def _follow(store: Store, sweep: SweepSummary) -> None:
    """Show what a sweep says and how far it is until it ends. An interrupt ends the showing, not the sweep."""
    from orchestrator.cli.progress import progress_of, reporter_for
    from orchestrator.sweeps.resume import is_alive
    from orchestrator.tracking import layout
    from orchestrator.tracking.read.queries import refreshed

    shown, wait = "", SERVER_SECONDS if is_http(store.uri) else SECONDS
    with reporter_for(as_json=False) as reporter:
        try:
            while True:
                # In this order: of a process that is gone the run says how it ended, and what is said before the end is there when the
                # end is.
                over = is_alive(sweep) is False
                sweep = refreshed(store, sweep)
                text = "".join(store.texts(sweep.parent_run_id, layout.LOGS_FOLDER))
                for line in text.removeprefix(shown).splitlines():
                    reporter.note(printable(line))
                shown = text
                if (state := progress_of(sweep)) is not None:
                    reporter.update(state)
                if sweep.status != "RUNNING" or over:
                    break
                time.sleep(wait)
        except KeyboardInterrupt:
            reporter.note(f"the sweep goes on without this terminal: `orchestrate cancel {sweep.sweep_id}` ends it")
            raise click.exceptions.Exit(INTERRUPTED) from None
    gone = "'s process is gone" if sweep.status == "RUNNING" else f" is {sweep.status.lower()}"
    click.echo(f"sweep {sweep.sweep_id}{gone}: `orchestrate status {sweep.sweep_id}` says more", err=True)


def _print_notes(texts: list[str], sweep_id: str, status: str) -> None:
    for text in texts:
        click.echo(printable_lines(text))
    if not texts:
        state = "it has just begun" if status == "RUNNING" else "it was killed before it could write any down"
        click.echo(f"sweep {sweep_id} has no notes: {state}", err=True)
