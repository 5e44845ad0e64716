"""The problems of trials with their numbers, as workers have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import UsageError
from orchestrator.scripting.grids import Given, grid_from
from orchestrator.tracking.read.tables import match_trials

if TYPE_CHECKING:
    from orchestrator.grid import Grid
    from workloads.problems.data.realized import ProblemData


@dataclass(frozen=True, eq=False)
class GivenProblem:
    """What a trial was given, and what it was to find: `truth` [*shape], the target W*, or ``None`` where only observations are known.

    ``values`` [N] is what was observed, with noise if there was any. Of completion, ``indices`` [N, order] are the places of those entries
    and ``mask`` [*shape] tells which they are; of sensing, ``measurements`` [N, *shape] are what ``values`` are inner products with. What
    is known but not trained on are ``held_out_indices`` [H, order], or ``held_out_measurements`` [H, *shape], and ``held_out_values`` [H].
    Where a function is looked for, ``values`` [N, *shape] and ``held_out_values`` [H, *shape] are its inputs.
    """

    shape: tuple[int, ...]
    truth: NDArray[np.float64] | None
    values: NDArray[np.float64]
    mask: NDArray[np.bool_] | None = None
    indices: NDArray[np.intp] | None = None
    measurements: NDArray[np.float64] | None = None
    held_out_indices: NDArray[np.intp] | None = None
    held_out_values: NDArray[np.float64] | None = None
    held_out_measurements: NDArray[np.float64] | None = None

    def __repr__(self) -> str:
        seen = "measurements" if self.measurements is not None else "inputs" if self.mask is None else "entries"
        known = "" if self.truth is not None or seen == "inputs" else ", target not known"
        return f"<{len(self.values)} {seen} of {'x'.join(map(str, self.shape))}{known}>"


def problem_of(grid: Grid, trial: str | None) -> GivenProblem:
    """Return the problem of a trial of a grid, meant by its id or a prefix of it; without one, that of all trials.

    Raises `UsageError` if there is no such trial, or several problems.
    """
    if trial is None:
        distinct = {one.spec.problem.canonical: one for one in grid.trials}
        if len(distinct) > 1:
            raise UsageError(f"the trials of {grid.name!r} have {len(distinct)} problems: say which trial's is wanted")
        (found,) = distinct.values()
    else:
        (wanted,) = match_trials([one.trial_id for one in grid.trials], trial)
        found = next(one for one in grid.trials if one.trial_id == wanted)
    return _given(found.spec.problem.realize(grid.files.contents))


def _given(data: ProblemData) -> GivenProblem:
    shape = data.shape
    if data.inputs is not None:
        held_out = None if data.held_out_inputs is None else data.held_out_inputs.reshape(-1, *shape)
        return GivenProblem(shape, None, data.inputs.reshape(-1, *shape), held_out_values=held_out)
    truth = None if data.truth is None else data.truth.reshape(shape)
    if data.mask is None or data.target is None:
        assert data.measurements is not None
        assert data.values is not None
        rows, values = data.held_out_measurements or (None, None)
        rows = None if rows is None else rows.reshape(-1, *shape)
        measurements = data.measurements.reshape(-1, *shape)
        return GivenProblem(shape, truth, data.values, None, None, measurements, None, values, held_out_measurements=rows)
    mask = data.mask.reshape(shape)
    places, values = None, None
    if data.held_out is not None:
        places, values = np.stack(np.unravel_index(data.held_out[0], shape), axis=-1), data.held_out[1]
    elif truth is not None:
        places, values = np.argwhere(~mask), truth[~mask]
    seen = data.target.reshape(shape)[mask]
    return GivenProblem(shape, truth, seen, mask, np.argwhere(mask), held_out_indices=places, held_out_values=values)


def load_problem(
    given: Given, trial: str | None, tracking_uri: str | None, storage: str | None, modules: Sequence[str] = ()
) -> GivenProblem:
    """Return the problem of a trial of a grid or of a sweep, which is a text that names no grid file."""
    if isinstance(given, Mapping) or not isinstance(given, str) or given.endswith((".yaml", ".yml")):
        return problem_of(grid_from(given, modules=modules), trial)
    from orchestrator.storage.base import open_storage
    from orchestrator.sweeps.resume import grid_of
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    store = open_existing(tracking_uri)
    return problem_of(grid_of(store, open_storage(storage), find_sweep(store, given), modules), trial)
