"""The loss of Huber 1964, which grows with a residual as its square while that is small, and no faster than the residual itself then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.losses.base import Loss
from workloads.section import Magnitude

if TYPE_CHECKING:
    from torch import Tensor


class Huber(Loss):
    """The sum over the observations of r²/2 for residuals r up to `delta`, of delta (|r| − delta/2) for larger ones."""

    kind = "huber"
    example = "{kind: huber, delta: 0.1}"

    delta: Magnitude = 1.0
    """Residual from which on the loss grows linearly."""

    def pointwise(self, prediction: Tensor, observation: Tensor) -> Tensor:
        residual = (prediction - observation).abs()
        # With c the smaller of |r| and delta both branches are c (|r| - c/2), and none is computed where it is not meant.
        capped = residual.clamp(max=self.delta)
        return capped * (residual - capped / 2)
