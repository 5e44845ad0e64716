"""What runs on a cluster for a sweep that was sent there as a job: ``python -m orchestrator.cli.job`` in the job's folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import click

from orchestrator.cli.main import leave, run_command


@click.command()
def job() -> NoReturn:
    """Run the sweep that lies in this folder."""
    from orchestrator.cli.commands.submit import run
    from orchestrator.cluster.addresses import remember
    from orchestrator.cluster.jobs import Order, job_id
    from orchestrator.options import Options

    folder = Path.cwd()
    order = Order.read(folder)
    os.environ.update(order.environment)
    # Whoever sent it has given it: earlier sweeps of the experiment may have been jobs there, too.
    remember(order.address)
    options = Options(**{**order.options, "sweep_id": order.sweep_id, "job": f"{job_id(order.sweep_id)} {order.address}"})
    run(order.grid(folder), options, order.as_json)


if __name__ == "__main__":
    leave(run_command(job))
