"""Half the sum of squared errors (arXiv 1905.13655, equation 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.losses.base import Loss

if TYPE_CHECKING:
    from torch import Tensor


class HalfSse(Loss):
    """Half the sum of squared errors over the observations."""

    kind = "half_sse"
    example = "half_sse"
    squares = 0.5

    def pointwise(self, prediction: Tensor, observation: Tensor) -> Tensor:
        return (prediction - observation).square() / 2
