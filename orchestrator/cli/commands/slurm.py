"""``orchestrate slurm``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import (
    every_option,
    grid_argument,
    json_option,
    patience_option,
    set_option,
    storage_option,
    tracking_option,
    with_option,
    workers_option,
)
from orchestrator.cluster.slurm.controller import hand_in
from orchestrator.cluster.slurm.script import MARGIN, REQUEUES, Request, script_of
from orchestrator.errors import UsageError
from orchestrator.tracking.uris import redact
from workloads.amounts import amount

OF_SBATCH = {name: f"--{name.replace('_', '-')}" for name in ("cpus_per_task", "partition", "account", "mem")}
"""Parameters that sbatch takes as they are, and what it calls them."""
OF_SUBMIT = {
    **{name: f"--{name.replace('_', '-')}" for name in ("tracking_uri", "storage", "workers", "patience")},
    "every": "--checkpoint-every",
}
"""Parameters that `orchestrate submit` takes in the job, and what it calls them."""


@click.command("slurm")
@grid_argument
@click.option("--nodes", default="1", show_default=True, metavar="N", help="Nodes, or the least and the most, as in 2-4.")
@click.option("--gpus-per-node", type=click.IntRange(min=0), default=0, metavar="G", help="GPUs of each node [default: none].")
@click.option("--cpus-per-task", type=click.IntRange(min=1), metavar="C", help="Cores of each node [default: Slurm's, often one].")
@click.option("--time", "limit", required=True, metavar="T", help="Time limit, as sbatch takes it: 90, 12:00:00, 2-00:00:00.")
@click.option("--partition", metavar="NAME", help="Partition.")
@click.option("--account", metavar="NAME", help="Account.")
@click.option("--mem", metavar="SIZE", help="Memory of each node, as sbatch takes it: 64G.")
@click.option(
    "--margin",
    type=click.IntRange(min=1),
    default=MARGIN,
    show_default=True,
    metavar="SECONDS",
    help="How long before the time limit to save all trials and put the job back into the queue.",
)
@click.option(
    "--requeues",
    type=click.IntRange(min=0),
    default=REQUEUES,
    show_default=True,
    metavar="N",
    help="How often that may happen before the job ends with exit code 130.",
)
@set_option
@with_option
@tracking_option
@storage_option
@workers_option
@every_option
@patience_option
@click.option("--dry-run", is_flag=True, help="Check the grid and print the batch script; submit nothing.")
@json_option
@click.argument("further", nargs=-1, type=click.UNPROCESSED, metavar="[-- SBATCH_OPTION...]")
def command(
    grid: Path,
    nodes: str,
    gpus_per_node: int,
    limit: str,
    margin: int,
    requeues: int,
    overrides: tuple[str, ...],
    modules: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    further: tuple[str, ...],
    **rest: Any,
) -> None:
    """Submit GRID to Slurm: one job, in which Ray is started on all nodes and the sweep run, over as many time limits as it takes.

    \b
    Example:
      orchestrate slurm configs/depth-vs-init.yaml --nodes 2 --cpus-per-task 32 --time 4:00:00
      orchestrate slurm grid.yaml --nodes 2-4 --gpus-per-node 4 --time 1-0 --partition gpu -- --qos=high --exclusive

    What follows -- goes to sbatch as it is. The exit code of the job is the sweep's.
    """
    from orchestrator.cli.progress import counted
    from orchestrator.extensions import use
    from orchestrator.grid import load_grid

    if redact(rest["tracking_uri"] or "") != (rest["tracking_uri"] or ""):
        raise UsageError("Slurm keeps what is in a batch script: set MLFLOW_TRACKING_URI rather than give --tracking-uri a password")
    options = (*_given(rest, OF_SBATCH), *further)
    use(modules)
    with counted("expanding the grid") as advanced:
        loaded = load_grid(grid, overrides, advanced)
    settings = [word for override in overrides for word in ("--set", override)]
    settings += [word for module in modules for word in ("--with", str(Path(module).absolute()) if module.endswith(".py") else module)]
    sweep = ["submit", str(grid.absolute()), *settings, *_given(rest, OF_SUBMIT)]
    request = Request(loaded.name, nodes, limit, gpus_per_node, margin, options)
    script = script_of(request, [sys.executable, "-m", "orchestrator.cli.main", *sweep], requeues)
    if dry_run:
        click.echo(script, nl=False)
        return
    job = hand_in(script)
    if as_json:
        click.echo(json.dumps({"job": job, "experiment": loaded.name, "trials": len(loaded.trials)}))
        return
    click.echo(f"job {job}: {loaded.name}, {amount(len(loaded.trials), 'trial')}, on {nodes} node{'s' if nodes != '1' else ''}")
    click.echo("   ".join(["look at it:", f"squeue -j {job}", *_log(job, options), f"orchestrate status {loaded.name}"]))
    click.echo(f"end it: orchestrate cancel {loaded.name} (saves all trials), or scancel {job}")


def _given(values: Mapping[str, Any], options: Mapping[str, str]) -> list[str]:
    """Return the options that have a value, as words of a command line."""
    return [f"{option}={values[name]}" for name, option in options.items() if values[name] is not None]


def _log(job: str, options: Sequence[str]) -> list[str]:
    """Return how to follow a job's log, unless options put it somewhere else: sbatch takes patterns."""
    elsewhere = any(option.startswith(("-o", "--output", "-D", "--chdir")) for option in options)
    return [] if elsewhere else [f"tail -F slurm-{job}.out"]
