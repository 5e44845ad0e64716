"""``orchestrate runs``."""

from __future__ import annotations

import click

from orchestrator.cli.options import sweeps_argument, tracking_option
from orchestrator.cli.tables import Asked, table_options


@click.command("runs")
@sweeps_argument
@table_options
@tracking_option
def command(sweeps: tuple[str, ...], asked: Asked, tracking_uri: str | None) -> None:
    """Print one line per trial of SWEEP: its outcome, its spec and its final measures. Or, with --by, one per group of trials.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest. Of several sweeps, trials that they share
    count once, and `sweep` is a column. What people read (table, latex, markdown) leaves out what is the same for all trials and says it
    below; the other formats have every column. A trial whose run was deleted in MLflow has the outcome `deleted`.

    With --by, trials that have ended are taken together over seeds. What a diverged trial measured counts as infinite, so a mean with it
    is infinite, too; a failed trial has no measures. Both are counted. A column `rate(CONDITION)` is the share of trials that meet it, of
    those that have the measures it is about; diverged ones do not.

    \b
    Example:
      orchestrate runs
      orchestrate runs figure1 -o runs.csv
      orchestrate runs --where "factorization.depth == 3" --sort -error --columns "seed,error,sv_*,abs(entry_0_0)"
      orchestrate runs --by factorization.depth,init.scale --columns "error,rate(error < 1e-2)" --statistic mean+-std -o table.tex
    """
    from orchestrator.analysis.results import Results
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    asked.show(Results.load(store, [find_sweep(store, sweep) for sweep in sweeps or ("latest",)]), sweeps=len(sweeps) > 1)
