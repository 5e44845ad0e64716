"""Measures of trials that have ended, computed from the factors that were kept of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workloads import measures
from workloads.engines.lanes import DTYPES
from workloads.measures.numerics.objective import Objective
from workloads.measures.numerics.snapshot import Snapshot, evaluate
from workloads.measures.work import rows_at_once
from workloads.training.preparing import Preparer
from workloads.training.references import Reference
from workloads.trial import TrialSpec

AT_ONCE = 1000
"""Trials that are measured together, at most."""

Kept = tuple[str, Mapping[str, NDArray[Any]]]
"""A trial's id, and its factors by name."""


def measure_factors(
    names: Sequence[str],
    specs: Sequence[TrialSpec],
    factors: Sequence[Sequence[NDArray[Any]]],
    preparer: Preparer,
    references: Mapping[str, Reference] | None = None,
) -> NDArray[np.float64]:
    """Return measures [R, C], in the columns of `workloads.measures.column_names`, of R trials with their final ``factors``.

    Their specs share a `workloads.trial.TrialSpec.lane_key`. ``references`` are the arrays that measures are against, by their names.

    All but those of how training stands (`workloads.measures.is_state`) are what training would have recorded in its last step.
    """
    params = [torch.from_numpy(np.stack(arrays)) for arrays in zip(*factors, strict=True)]
    spec, problems = specs[0], [preparer.problem(spec) for spec in specs]
    loss = torch.full((len(factors),), float("nan"), dtype=torch.float64)
    if not spec.factorization.maps and any(map(measures.code_of, names)):
        # A user's own measures may be of it.
        loss = Objective(spec.factorization, specs, problems, [p.double() for p in params]).losses().detach()
    epsilon = torch.finfo(DTYPES[spec.dtype]).eps
    known = preparer.start, None, preparer.arrays(references or {})
    return evaluate(names, Snapshot(spec.factorization, params, loss, problems, epsilon, specs, *known))


def measure_kept(
    names: Sequence[str],
    kept: Iterable[Kept],
    specs: Mapping[str, TrialSpec],
    files: Mapping[str, bytes],
    references: Mapping[str, Reference] | None = None,
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the measures of trials with their final factors ``kept``, by column; none of those that are not defined for a trial.

    ``specs`` are the trials', by id, and ``files`` the content of data files, by digest; ``references`` the arrays of these that
    measures are against, by their names.
    """
    preparer = Preparer(files)
    for defined, some in _batches(names, kept, specs):
        spec = specs[some[0][0]]
        if not defined:
            yield from ((trial_id, {}) for trial_id, _ in some)
            continue
        factors = [[arrays[name] for name in spec.factor_shapes] for _, arrays in some]
        values = measure_factors(defined, [specs[trial_id] for trial_id, _ in some], factors, preparer, references)
        columns = [column for name in defined for column in measures.column_names(name, spec)]
        yield from ((trial_id, dict(zip(columns, map(float, row), strict=True))) for (trial_id, _), row in zip(some, values, strict=True))


def _batches(names: Sequence[str], kept: Iterable[Kept], specs: Mapping[str, TrialSpec]) -> Iterator[tuple[tuple[str, ...], list[Kept]]]:
    """Yield the measures that are defined for trials, and the trials: with factors of the same shapes, and products that are the same
    function of them, as many as are measured together."""
    waiting: dict[tuple[tuple[str, ...], tuple[object, ...]], list[Kept]] = defaultdict(list)
    for trial in kept:
        spec = specs[trial[0]]
        # Trials may be lanes of one program and differ in this, as where some hold out examples.
        key = tuple(name for name in names if not measures.undefined(name, spec)), spec.lane_key
        some = waiting[key]
        some.append(trial)
        if len(some) >= min(AT_ONCE, rows_at_once(spec)):
            yield key[0], waiting.pop(key)
    yield from ((defined, some) for (defined, _), some in waiting.items())
