"""``orchestrate factors``."""

from __future__ import annotations

import io
from pathlib import Path

import click

from orchestrator.cli.options import sweep_argument, tracking_option
from orchestrator.files import write_file
from workloads.amounts import amount


@click.command("factors")
@sweep_argument
@click.argument("trials", nargs=-1, metavar="[TRIAL]...")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Write to this .npz file.")
@tracking_option
def command(sweep: str, trials: tuple[str, ...], output: Path, tracking_uri: str | None) -> None:
    """Write the final factors of SWEEP's trials, or of each TRIAL, to a NumPy file.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest; TRIAL is an id, or a unique prefix of one.
    The file has an array for each factor, named TRIAL/W1, TRIAL/W2, …; those at a checkpoint that was asked for are named
    TRIAL/W1 at step-1000.

    \b
    Example:
      orchestrate factors figure1 -o factors.npz
      orchestrate factors figure1 4cf3 -o factors.npz
      python -c "import numpy; print(*numpy.load('factors.npz'))"
    """
    import numpy as np

    from orchestrator.tracking.factors import flat
    from orchestrator.tracking.read.factors import load_factors
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    found = flat(load_factors(store, find_sweep(store, sweep), trials or None))
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **found)
    write_file(output, content.getvalue())
    trained = len({name.partition("/")[0] for name in found})
    click.echo(f"{amount(trained, 'trial')}, {amount(len(found), 'factor')} in {output}", err=True)
