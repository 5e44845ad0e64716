"""Sweeps that run as jobs of a cluster elsewhere: sending them, and showing here what they say there."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, NoReturn

import click

from orchestrator.cli.options import INTERRUPTED
from orchestrator.cluster.addresses import remember
from orchestrator.cluster.jobs import Jobs, order_for
from orchestrator.errors import RayUnavailable
from orchestrator.tracking.write.parent import new_sweep_id
from workloads.amounts import amount

if TYPE_CHECKING:
    from orchestrator.grid import Grid
    from orchestrator.options import Options


def send(grid: Grid, options: Options, as_json: bool, detach: bool) -> NoReturn:
    """Send a sweep to a cluster; unless detached, show what it says until it ends, and exit as it does."""
    jobs = Jobs(options.address or "")
    order = order_for(grid, dataclasses.replace(options, address=jobs.address), new_sweep_id(), as_json)
    # Before: a sweep whose sending is interrupted may be there.
    remember(jobs.address)
    job = jobs.send(order, grid)
    click.echo(f"sweep {order.sweep_id} of {amount(len(grid.trials), 'trial')} is on its way, as job {job} of {jobs.address}", err=True)
    if detach:
        if as_json:
            click.echo(json.dumps({"sweep_id": order.sweep_id, "experiment": grid.name, "job": job, "address": jobs.address}))
        else:
            click.echo(f"follow it: orchestrate logs {order.sweep_id} --follow --address {jobs.address}")
        raise click.exceptions.Exit(0)
    follow(jobs, job, order.sweep_id, as_json)


def follow(jobs: Jobs, job: str, sweep_id: str, as_json: bool) -> NoReturn:
    """Show what a job says until it ends, and exit as it does. An interrupt ends the showing, not the job."""
    last = ""
    try:
        for line in jobs.follow(job):
            if as_json and _is_summary(line):
                last = line
            else:
                click.echo(line, err=as_json)
    except KeyboardInterrupt:
        click.echo(f"the sweep goes on without this terminal: `orchestrate cancel {sweep_id} --address {jobs.address}` ends it", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    if last:
        click.echo(last)
    state = jobs.status(job)
    if state == "STOPPED":
        raise click.exceptions.Exit(INTERRUPTED)
    code = jobs.exit_code(job)
    if code is None:
        raise RayUnavailable(f"job {job} of {jobs.address} ended without a word of its own: {jobs.message(job)}")
    raise click.exceptions.Exit(code)


def _is_summary(line: str) -> bool:
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return isinstance(value, dict) and "sweep_id" in value
