"""The sum of absolute errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.losses.base import Loss

if TYPE_CHECKING:
    from torch import Tensor


class Absolute(Loss):
    """The sum of the residuals' absolute values over the observations; where one is zero, so is its derivative."""

    kind = "absolute"
    example = "{kind: absolute}"
    smooth = False

    def pointwise(self, prediction: Tensor, observation: Tensor) -> Tensor:
        return (prediction - observation).abs()
