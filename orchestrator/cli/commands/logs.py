"""``orchestrate logs``."""

from __future__ import annotations

import click

from orchestrator.cli.options import address_option, sweep_argument, tracking_option


@click.command("logs")
@sweep_argument
@tracking_option
@address_option
@click.option("-f", "--follow", "following", is_flag=True, help="Go on showing what a job says until it ends.")
def command(sweep: str, tracking_uri: str | None, address: str | None, following: bool) -> None:
    """Show what SWEEP has said: of a job on a cluster all of it, as it comes; of any other sweep its notes, once it has ended.

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
            _print_notes(store.texts(found.parent_run_id, layout.LOGS_FOLDER), found.sweep_id, found.status)
            return
        check_known(where[1])
        job, name, jobs = where[0], found.sweep_id, Jobs(where[1])
    if following:
        follow(jobs, job, name, as_json=False)
    click.echo(jobs.logs(job), nl=False)


def _print_notes(texts: list[str], sweep_id: str, status: str) -> None:
    for text in texts:
        click.echo(text, nl=False)
    if not texts:
        state = "it is still running, and says it where it runs" if status == "RUNNING" else "it was killed before it could write any down"
        click.echo(f"sweep {sweep_id} has no notes: {state}", err=True)
