"""The logistic loss of signs: classification, and 1-bit matrix completion (Davenport, Plan, van den Berg and Wootters 2014)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.losses.base import Loss

if TYPE_CHECKING:
    from torch import Tensor


class Logistic(Loss):
    """The mean over observations y, each -1 or 1, of log(1 + exp(−y w)): w are the logarithms of odds that a 1 is seen."""

    kind = "logistic"
    example = "logistic"
    reduction = "mean"
    signs = True

    def pointwise(self, prediction: Tensor, observation: Tensor) -> Tensor:
        import torch

        # Beyond the threshold it is linear to the last bit of float64.
        return torch.nn.functional.softplus(-prediction * observation, threshold=36.0)
