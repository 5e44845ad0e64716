"""Orchestration of factorization sweeps: grids, planning, Ray, MLflow, analysis.

For notebooks::

    import orchestrator

    runs = orchestrator.load_runs("figure1")        # one row per trial: spec, outcome, final measures
    history = orchestrator.load_history("figure1")  # one row per trial and recorded step
    factors = orchestrator.load_factors("figure1")  # the final factors of each trial, by trial and name
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store

__all__ = ["load_factors", "load_history", "load_runs"]


def load_runs(sweep: str | Sequence[str] = "latest", *, where: str | None = None, tracking_uri: str | None = None) -> pd.DataFrame:
    """One row per trial of ``sweep``: ``trial_id, run_id, outcome, steps, seconds``, the spec's dotted keys, the final measures.

    ``sweep`` is an id, a unique prefix of one, an experiment's name (its newest sweep), or ``latest``; of several, trials that they share
    are there once, and ``sweep`` is a column. ``where`` is a condition that trials meet, such as ``"factorization.depth == 3"``. Raises
    `orchestrator.errors.UsageError` if there is no such sweep, `orchestrator.errors.TrackingUnavailable` if the store cannot be read.
    Trials whose runs were deleted have the outcome ``deleted``, and a warning says how many they are.
    """
    from orchestrator.analysis.results import Results
    from orchestrator.analysis.tables import listing
    from orchestrator.tracking.read.tables import lost

    results = Results.load(*_found(sweep, tracking_uri))
    _warn(lost(results.runs))
    return listing(results, where=where, sweeps=not isinstance(sweep, str)).frame


def load_history(
    sweep: str | Sequence[str] = "latest",
    *,
    trials: str | Collection[str] | None = None,
    where: str | None = None,
    when: str | None = None,
    spec: bool = False,
    columns: Sequence[str] = (),
    tracking_uri: str | None = None,
) -> pd.DataFrame:
    """One row per recorded step of each trial of ``sweep``: ``trial_id, step``, then the measures, at full resolution.

    ``trials`` picks trials by id, or a unique prefix of one; ``where`` by a condition, as `load_runs`; ``when`` picks recorded steps, as
    ``"loss < 1e-3"`` does. With ``spec`` the keys of the trials' specs are columns, too, and so are ``columns`` of the table of trials.
    Raises what `load_runs` raises.
    """
    from orchestrator.analysis.traces import load_traces

    history, lost = load_traces(*_found(sweep, tracking_uri), trials=trials, where=where, when=when, spec=spec, columns=columns)
    _warn(lost)
    return history


def load_factors(
    sweep: str = "latest", *, trials: str | Collection[str] | None = None, tracking_uri: str | None = None
) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the final factors of the trials of ``sweep``, or of ``trials``, by trial id and name: ``W1`` …, or ``A1`` ….

    Factors at checkpoints that were asked for are named ``W1 at step-1000``. Raises what `load_runs` raises, and `UsageError` for one of
    ``trials`` that has none.
    """
    from orchestrator.tracking.read import factors

    store, (found,) = _found(sweep, tracking_uri)
    return dict(factors.load_factors(store, found, trials))


def _found(sweep: str | Sequence[str], tracking_uri: str | None) -> tuple[Store, list[SweepSummary]]:
    """Return the store, and the sweeps that are meant."""
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    return store, [find_sweep(store, one) for one in ([sweep] if isinstance(sweep, str) else sweep)]


def _warn(lost: Iterable[str]) -> None:
    """Warn of what was deleted."""
    for text in lost:
        warnings.warn(text, stacklevel=3)
