"""Measures of trials that have ended, computed from the factors that were kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workloads.engines.lanes import DTYPES
from workloads.measures.numerics.snapshot import Snapshot, evaluate
from workloads.training.preparing import Preparer
from workloads.trial import TrialSpec


def measure_factors(
    names: Sequence[str], specs: Sequence[TrialSpec], factors: Sequence[Sequence[NDArray[Any]]], preparer: Preparer
) -> NDArray[np.float64]:
    """Return measures [R, C], in the columns of `workloads.measures.column_names`, of R trials with their final ``factors``.

    Their specs share a `workloads.trial.TrialSpec.lane_key`.

    All but ``loss``, of which factors alone say nothing, are what training would have recorded in its last step.
    """
    params = [torch.from_numpy(np.stack(arrays)) for arrays in zip(*factors, strict=True)]
    unknown = torch.full((len(factors),), float("nan"), dtype=torch.float64)
    spec, problems = specs[0], [preparer.problem(spec) for spec in specs]
    epsilon = torch.finfo(DTYPES[spec.dtype]).eps
    return evaluate(names, Snapshot(spec.factorization, params, unknown, problems, epsilon, specs, preparer.start))
