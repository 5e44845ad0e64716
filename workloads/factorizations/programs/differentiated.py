"""The step of factorizations that have no hand-written one: gradients are autograd's, over lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Differentiated:
    """See `workloads.factorizations.base.Program`: of ``products``, which maps factors [R, ...] to [R, *shape] and mixes no lanes."""

    def __init__(
        self, products: Callable[[Sequence[Tensor]], Tensor], params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor
    ) -> None:
        self._products, self._params, self._grads, self._outer = products, params, grads, outer
        self.product = torch.empty_like(outer)
        self._graph: tuple[list[Tensor], Tensor] | None = None

    def forward(self) -> None:
        with torch.enable_grad():
            # By `data`, since a step of other lanes in the same tensors does not spoil what is remembered of these.
            leaves = [p.data.requires_grad_() for p in self._params]
            whole = self._products(leaves)
        self._graph = leaves, whole
        self.product.copy_(whole.detach().flatten(1))

    def backward(self) -> None:
        assert self._graph is not None
        leaves, whole = self._graph
        self._graph = None
        for mine, found in zip(self._grads, torch.autograd.grad(whole, leaves, self._outer.view_as(whole)), strict=True):
            mine.copy_(found)
