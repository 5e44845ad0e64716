"""Sweeps that scripts submit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.addresses import is_job_address
from orchestrator.errors import UsageError
from orchestrator.scripting.display import showing
from orchestrator.storage.base import open_storage
from orchestrator.sweeps.signals import stoppable
from orchestrator.sweeps.submit import Summary
from orchestrator.sweeps.submit import submit as run
from orchestrator.tracking.uris import resolve
from workloads.amounts import amount

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from orchestrator.analysis.answers import Chart
    from orchestrator.grid import Grid
    from orchestrator.options import Options
    from orchestrator.scripting.problems import GivenProblem

SHOWN = ("converged", "exhausted", "diverged", "aborted", "failed", "cancelled")


@dataclass(frozen=True, repr=False)
class Sweep:
    """A sweep that was submitted: how it ended, and the way to what it found, by `orchestrator`'s functions of the same names."""

    summary: Summary
    options: Options

    def __repr__(self) -> str:
        one = self.summary
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items() if count)
        reused = f", {one.reused} reused" if one.reused else ""
        trials = f"{amount(one.trials, 'trial')} ({counts or 'none run'}{reused})"
        return f"<sweep {one.sweep_id} of {one.experiment}: {trials} in {one.seconds:.1f} s>"

    @property
    def sweep_id(self) -> str:
        """The sweep's id."""
        return self.summary.sweep_id

    @property
    def counts(self) -> dict[str, int]:
        """How many trials have each outcome."""
        return {outcome: getattr(self.summary, outcome) for outcome in SHOWN}

    def runs(self, **picked: Any) -> pd.DataFrame:
        """Return the table of trials: see `orchestrator.load_runs`."""
        import orchestrator

        return orchestrator.load_runs(self.sweep_id, **picked, tracking_uri=self.options.tracking_uri)

    def history(self, **picked: Any) -> pd.DataFrame:
        """Return the traces: see `orchestrator.load_history`."""
        import orchestrator

        return orchestrator.load_history(self.sweep_id, **picked, tracking_uri=self.options.tracking_uri)

    def factors(self, **picked: Any) -> dict[str, dict[str, NDArray[Any]]]:
        """Return the final factors: see `orchestrator.load_factors`."""
        import orchestrator

        return orchestrator.load_factors(self.sweep_id, **picked, tracking_uri=self.options.tracking_uri)

    def measure(self, measures: str | Sequence[str], **picked: Any) -> pd.DataFrame:
        """Return measures that were not recorded: see `orchestrator.measure`."""
        import orchestrator

        options = self.options
        return orchestrator.measure(self.sweep_id, measures, **picked, tracking_uri=options.tracking_uri, storage=options.storage)

    def problem(self, trial: str | None = None, **picked: Any) -> GivenProblem:
        """Return what a trial was given: see `orchestrator.load_problem`."""
        import orchestrator

        options = self.options
        return orchestrator.load_problem(self.sweep_id, trial, **picked, tracking_uri=options.tracking_uri, storage=options.storage)

    def figures(self) -> dict[str, Chart]:
        """Return the grid's figures: see `orchestrator.figures`."""
        import orchestrator

        return orchestrator.figures(self.sweep_id, tracking_uri=self.options.tracking_uri)

    def verify(self) -> pd.DataFrame:
        """Return the verdicts on the grid's claims: see `orchestrator.verify`."""
        import orchestrator

        return orchestrator.verify(self.sweep_id, tracking_uri=self.options.tracking_uri)


def submit(grid: Grid, options: Options, progress: bool) -> Sweep:
    """Run what is missing of a grid, wait for it, and return the sweep.

    An interrupt ends it as it does `orchestrate submit`: trials are saved first. Raises KeyboardInterrupt then, and what
    `orchestrator.sweeps.submit.submit` raises.
    """
    if is_job_address(options.address or os.environ.get("RAY_ADDRESS")):
        raise UsageError(
            f"a sweep that is sent to {options.address or os.environ['RAY_ADDRESS']} as a job is not waited for here: "
            "`orchestrate submit --address` sends it, and its results are loaded as all are"
        )
    # As they are now: the way to what a sweep found leads from no other folder, and through no other environment.
    options = replace(options, tracking_uri=resolve(options.tracking_uri), storage=open_storage(options.storage).url)
    with showing(progress) as reporter, stoppable() as stop:
        summary = run(grid, reporter, options, stop)
    if stop.interrupted and summary.cancelled:
        raise KeyboardInterrupt(f"interrupted with {amount(summary.cancelled, 'trial')} to go: submit the same grid again to go on")
    return Sweep(summary, options)
