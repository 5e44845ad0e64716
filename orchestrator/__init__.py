"""Orchestration of factorization sweeps: grids, planning, Ray, MLflow, analysis.

For notebooks::

    import orchestrator

    runs = orchestrator.load_runs("figure1")        # one row per trial: spec, outcome, final measures
    history = orchestrator.load_history("figure1")  # one row per trial and recorded step
    factors = orchestrator.load_factors("figure1")  # the final factors of each trial, by trial and name
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["load_factors", "load_history", "load_runs"]


def load_runs(sweep: str = "latest", *, tracking_uri: str | None = None) -> pd.DataFrame:
    """One row per trial of ``sweep``: ``trial_id, run_id, outcome, steps, seconds``, the spec's dotted keys, the final measures.

    ``sweep`` is an id, a unique prefix of one, an experiment's name (its newest sweep), or ``latest``. Raises
    `orchestrator.errors.UsageError` if there is no such sweep, `orchestrator.errors.TrackingUnavailable` if the store cannot be read.
    Trials whose runs were deleted have the outcome ``deleted``, and a warning says how many they are.
    """
    from orchestrator.tracking.read import tables
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    runs = tables.load_runs(store, find_sweep(store, sweep))
    _warn(tables.lost(runs))
    return runs


def load_history(sweep: str = "latest", *, trials: Collection[str] | None = None, tracking_uri: str | None = None) -> pd.DataFrame:
    """One row per recorded step of each trial of ``sweep``: ``trial_id, step``, then the measures, at full resolution.

    ``trials`` picks trials by id. Raises what `load_runs` raises.
    """
    from orchestrator.tracking.read import tables
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    found = find_sweep(store, sweep)
    history, runs = tables.load_history(store, found, trials), tables.load_runs(store, found)
    _warn(tables.lost(runs if trials is None else runs[runs["trial_id"].isin(trials)], history))
    return history


def load_factors(
    sweep: str = "latest", *, trials: Collection[str] | None = None, tracking_uri: str | None = None
) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the final factors of the trials of ``sweep``, or of ``trials``, by trial id and name: ``W1`` …, or ``A1`` ….

    Factors at checkpoints that were asked for are named ``W1 at step-1000``. Raises what `load_runs` raises, and `UsageError` for one of
    ``trials`` that has none.
    """
    from orchestrator.tracking.read import factors
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    return dict(factors.load_factors(store, find_sweep(store, sweep), trials))


def _warn(lost: Iterable[str]) -> None:
    """Warn of what was deleted."""
    for text in lost:
        warnings.warn(text, stacklevel=3)
