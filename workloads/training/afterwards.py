"""Measures of trials that have ended, computed from the factors that were kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workloads.engines.lanes import DTYPES
from workloads.measures.numerics.snapshot import Snapshot, evaluate
from workloads.problems.data.realized import ProblemData
from workloads.trial import TrialSpec


def measure_factors(
    names: Sequence[str], spec: TrialSpec, factors: Sequence[Sequence[NDArray[Any]]], problems: Sequence[ProblemData]
) -> NDArray[np.float64]:
    """Return measures [R, C], in the columns of `workloads.measures.column_names`, of R trials like ``spec`` with their final ``factors``.

    All but ``loss``, of which factors alone say nothing, are what training would have recorded in its last step.
    """
    params = [torch.from_numpy(np.stack(arrays)) for arrays in zip(*factors, strict=True)]
    unknown = torch.full((len(factors),), float("nan"), dtype=torch.float64)
    return evaluate(names, Snapshot(spec.factorization, params, unknown, problems, torch.finfo(DTYPES[spec.dtype]).eps))
