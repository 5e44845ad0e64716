"""What a grid would run on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.planning.pack import Crew
from orchestrator.planning.plan import Plan, default_workers, make_plan
from orchestrator.sweeps.submit import recording_of
from workloads.engines.calibration import known_rates
from workloads.engines.rates import CORE

if TYPE_CHECKING:
    from orchestrator.grid import Grid
    from workloads.trial import Trial


def planned_here(grid: Grid, workers: int | None = None, left: Sequence[Trial] | None = None) -> Plan:
    """Return the plan of a grid for this machine's cores, ``workers`` packs at once or as many as they allow. Starts nothing.

    It is that of all trials, or of those that are ``left`` to be trained, from where they stand.
    """
    trials = grid.trials if left is None else left
    crew = Crew(workers or default_workers(grid.resources.cpus), "cpu", known_rates() or CORE)
    return make_plan(trials, recording_of(grid), grid.resources.engine, [crew], reused=len(grid.trials) - len(trials))
