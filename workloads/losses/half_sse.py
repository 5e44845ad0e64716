"""Half the sum of squared errors (arXiv 1905.13655, equation 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.losses.base import Loss

if TYPE_CHECKING:
    from torch import Tensor


class HalfSse(Loss):
    """Half the sum of squared errors over the observations."""

    kind = "half_sse"

    def value(self, residual: Tensor) -> Tensor:
        return residual.square().sum() / 2

    def factor(self, count: int) -> float:
        return 0.5
