"""The solution of least Frobenius norm: the projection of zero onto what fits the observations."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.problems.data.fitting import Fitting


class Projection:
    """See `workloads.factorizations.base.Solver`. Every lane is solved by its first step."""

    def __init__(self, fitting: Fitting, like: Tensor) -> None:
        self._fitting, self._zero = fitting, torch.zeros_like(like)

    def step(self, done: NDArray[np.int64], active: NDArray[np.bool_], until: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.bool_]]:
        return self._fitting.project(self._zero), active
