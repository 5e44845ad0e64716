"""Orchestration of factorization sweeps: grids, planning, Ray, MLflow, analysis.

For scripts and notebooks::

    import orchestrator

    sweep = orchestrator.submit("configs/figure1.yaml")  # or a dict with what such a file has in it
    runs = sweep.runs()                                  # one row per trial: spec, outcome, final measures
    sweep.figures()["figure1"]                           # a chart, which a notebook shows

    history = orchestrator.load_history("figure1")       # of any sweep: one row per trial and recorded step
    factors = orchestrator.load_factors("figure1")       # the final factors of each trial, by trial and name
    problem = orchestrator.load_problem("figure1")       # what the trials were given, and what they were to find

What is wrong is raised as `orchestrator.errors.OrchestratorError`, with the text that the commands print.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator import errors
from orchestrator.options import CHECKPOINT_SECONDS, PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from orchestrator.analysis.answers import Chart
    from orchestrator.planning.plan import Plan
    from orchestrator.scripting.grids import Given, Modules, Overrides
    from orchestrator.scripting.problems import GivenProblem
    from orchestrator.scripting.sweep import Sweep
    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store

__all__ = [
    "errors",
    "figures",
    "load_factors",
    "load_history",
    "load_problem",
    "load_runs",
    "measure",
    "plan",
    "report",
    "submit",
    "verify",
]


def submit(
    grid: Given,
    *,
    overrides: Overrides = (),
    modules: Modules = (),
    address: str | None = None,
    tracking_uri: str | None = None,
    storage: str | None = None,
    workers: int | None = None,
    fresh: bool = False,
    reuse_from: Sequence[str] = (),
    checkpoint_every: float = CHECKPOINT_SECONDS,
    patience: float = PATIENCE,
    progress: bool = True,
) -> Sweep:
    """Run the trials of ``grid`` that MLflow does not have yet, wait for them, and return the sweep.

    ``grid`` is the path of a grid file, or a dict with what such a file has in it; ``overrides`` are keys and values, such as
    ``{"seeds": 3}``, and ``modules`` files with kinds and measures of your own, as with ``--with``. The others are the options of
    ``orchestrate submit``. Trials that fail are counted, not raised. An interrupt (in a notebook the square button) saves the trials and
    raises KeyboardInterrupt; submit again to go on.

    Raises `orchestrator.errors.GridError` with everything that is wrong with the grid, and `orchestrator.errors.UnavailableError` if Ray,
    MLflow or the storage cannot be used.
    """
    from orchestrator.options import Options
    from orchestrator.scripting.grids import grid_from
    from orchestrator.scripting.sweep import submit

    options = Options(address, tracking_uri, storage, fresh, tuple(reuse_from), checkpoint_every, patience, workers)
    return submit(grid_from(grid, overrides, modules), options, progress)


def plan(grid: Given, *, overrides: Overrides = (), modules: Modules = (), workers: int | None = None) -> Plan:
    """Return what ``grid`` would run: its trials in packs, with engines, memory and time. Starts and creates nothing.

    ``workers`` is how many packs run at once, by default what this machine's cores allow. Raises `orchestrator.errors.GridError`.
    """
    from orchestrator.scripting.grids import grid_from
    from orchestrator.sweeps.plan import planned_here

    return planned_here(grid_from(grid, overrides, modules), workers)


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


def measure(
    sweep: str,
    measures: str | Sequence[str],
    *,
    trials: str | Collection[str] | None = None,
    where: str | None = None,
    modules: Modules = (),
    references: Mapping[str, str] | None = None,
    tracking_uri: str | None = None,
    storage: str | None = None,
) -> pd.DataFrame:
    """Return measures that ``sweep`` did not record, computed from the final factors: ``trial_id``, then a column for each number.

    ``measures`` are names as in a grid's ``record.measures``, ``modules`` files with measures of your own, and ``references``, as
    ``{"found": "runs/w.npz:W"}``, arrays that measures are against beside those that the grid names. Of trials that failed or were
    deleted there are no factors, and no rows. ``trials`` and ``where`` pick trials, as in `load_history`. Raises what `load_runs`
    raises, and `orchestrator.errors.UsageError` for a measure that is unknown, or defined for no trial.
    """
    from orchestrator.storage.base import open_storage
    from orchestrator.sweeps.measure import measured_results

    store, (found,) = _found(sweep, tracking_uri)
    names = [measures] if isinstance(measures, str) else measures
    results, columns = measured_results(store, open_storage(storage), found, names, where, trials, _texts(modules), references)
    return results.runs[["trial_id", *columns]]


def load_problem(
    sweep: Given = "latest",
    trial: str | None = None,
    *,
    modules: Modules = (),
    tracking_uri: str | None = None,
    storage: str | None = None,
) -> GivenProblem:
    """Return what a trial was given, and what it was to find, computed from its spec as workers do.

    ``sweep`` is a sweep, as `load_runs` has it, or a grid: the path of a file, which ends in ``.yaml``, or a dict. ``trial`` is an id, or a
    unique prefix of one; it may be left out where all trials have the same problem. A sweep of kinds of your own needs their ``modules``,
    as they were: what is only to be read runs no code that a sweep keeps. Raises `orchestrator.errors.UsageError` if there is no
    such trial, or several problems, and what `load_runs` raises.
    """
    from orchestrator.scripting.problems import load_problem

    return load_problem(sweep, trial, tracking_uri, storage, _texts(modules))


def figures(
    sweep: str | Sequence[str] = "latest", figures: Mapping[str, Any] | None = None, *, tracking_uri: str | None = None
) -> dict[str, Chart]:
    """Return the figures of a sweep's grid, or ``figures`` as a grid has them, by name: charts of altair, which a notebook shows.

    Of one that cannot be drawn a warning says why. Raises what `load_runs` raises, and `orchestrator.errors.UsageError` if there are none.
    """
    from orchestrator.analysis.answers import charts

    return charts(*_found(sweep, tracking_uri), figures)


def verify(sweep: str = "latest", claims: Mapping[str, Any] | None = None, *, tracking_uri: str | None = None) -> pd.DataFrame:
    """Return the verdicts on the claims of a sweep's grid, or on ``claims`` as a grid has them: a row each.

    A ``verdict`` is ``holds``, ``broken`` or ``withheld``; ``found`` says in words what was found, ``worst_trial`` speaks most against it.
    Raises what `load_runs` raises, and `orchestrator.errors.UsageError` if there are none.
    """
    from orchestrator.analysis.answers import verdicts

    store, (found,) = _found(sweep, tracking_uri)
    return verdicts(store, found, claims)


def report(sweep: str = "latest", path: str | Path | None = None, *, tracking_uri: str | None = None) -> Path:
    """Write a page of HTML with all of ``sweep`` that there is to read, which needs no network, and return where it is.

    It goes to ``path`` alone, or else beside the sweep's figures and into its MLflow run. Raises what `load_runs` raises, and
    `orchestrator.errors.StorageUnavailable` if it cannot be written.
    """
    from pathlib import Path

    from orchestrator.analysis.page.writing import write_page

    store, (found,) = _found(sweep, tracking_uri)
    return write_page(store, found, None if path is None else Path(path))


def _texts(modules: Modules) -> list[str]:
    """Return the names of modules as ``--with`` takes them."""
    from orchestrator.scripting.grids import texts

    return texts(modules)


def _found(sweep: str | Sequence[str], tracking_uri: str | None) -> tuple[Store, list[SweepSummary]]:
    """Return the store, and the sweeps that are meant."""
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    names = [sweep] if isinstance(sweep, str) else list(sweep)
    if not names:
        raise errors.UsageError("no sweep is named: give one or several, or leave them out for the latest")
    store = open_existing(tracking_uri)
    return store, [find_sweep(store, one) for one in names]


def _warn(lost: Iterable[str]) -> None:
    """Warn of what was deleted."""
    for text in lost:
        warnings.warn(text, stacklevel=3)
