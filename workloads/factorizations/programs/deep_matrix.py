"""The step of deep matrix factorizations: prefix and suffix products, two matrix products a factor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class DeepMatrixProgram:
    """See `workloads.factorizations.base.Program`."""

    def __init__(self, params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor) -> None:
        lanes, rows, columns = len(outer), params[-1].shape[1], params[0].shape[2]
        # prefix[l] = W_(l+1) ... W_1 and suffix[l] = (W_L ... W_(l+2))^T dL/dW, which have the same shape.
        prefix = [params[0], *(p.new_empty(lanes, p.shape[1], columns) for p in params[1:])]
        self.product = prefix[-1].view(lanes, -1)
        self.products = list(zip(params[1:], prefix, prefix[1:], strict=False))
        self.gradients: list[tuple[Tensor, Tensor, Tensor]] = []
        upper = outer.view(lanes, rows, columns)
        self.single = (upper, grads[0]) if len(params) == 1 else None
        for layer in range(len(params) - 1, 0, -1):
            target = torch.empty_like(prefix[layer - 1]) if layer > 1 else grads[0]
            self.gradients += [(upper, prefix[layer - 1].mT, grads[layer]), (params[layer].mT, upper, target)]
            upper = target

    def forward(self) -> None:
        for left, right, out in self.products:
            torch.bmm(left, right, out=out)

    def backward(self) -> None:
        if self.single is not None:
            self.single[1].copy_(self.single[0])
        for left, right, out in self.gradients:
            torch.bmm(left, right, out=out)
