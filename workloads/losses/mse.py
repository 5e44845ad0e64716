"""The mean squared error (arXiv 2102.09972, equation 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.losses.base import Loss

if TYPE_CHECKING:
    from torch import Tensor


class Mse(Loss):
    """The mean squared error over the observations."""

    kind = "mse"
    example = "mse"
    reduction = "mean"
    squares = 1.0

    def pointwise(self, prediction: Tensor, observation: Tensor) -> Tensor:
        return (prediction - observation).square()
