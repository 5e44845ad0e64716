"""``orchestrate import``."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import tracking_option
from orchestrator.files import is_file
from workloads.amounts import ended_of


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@tracking_option
def command(file: Path, tracking_uri: str | None) -> None:
    """Take in a sweep from a FILE of `orchestrate export`, as if it had been run here.

    What reads a sweep gives what it gave there. Its grid, submitted here, runs only what is missing. A sweep that is here already stays as
    it is; what was interrupted is done again.

    \b
    Example:
      orchestrate import figure1.zip
      orchestrate import figure1.zip --tracking-uri http://mlflow:5000
    """
    from orchestrator.cli.progress import counted
    from orchestrator.sweeps.share import import_sweep
    from orchestrator.tracking.store import open_store

    if not is_file(file):
        raise click.UsageError(f"{file}: there is no such file")
    store = open_store(tracking_uri)
    with counted("importing") as advanced:
        done = import_sweep(store, file, advanced)
    state = f"{ended_of(done.ended, done.trials)}"
    if done.known:
        click.echo(f"sweep {done.sweep_id} of {done.experiment} is in {store.display} already ({state}): nothing was imported", err=True)
        return
    reused = f", {done.reused} of them reused from sweeps that were here" if done.reused else ""
    click.echo(f"sweep {done.sweep_id} of {done.experiment} is in {store.display} now: {state}{reused}", err=True)
    if done.code:
        click.echo(f"it came with code, {', '.join(done.code)}, that resume, rerun and measure would run: read it first", err=True)
