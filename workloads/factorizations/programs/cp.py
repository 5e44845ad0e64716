"""The step of CP factorizations: Khatri-Rao products of the first and of the last modes, and one matrix product of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workloads.factorizations.programs.modes import split_modes


class CpProgram:
    """See `workloads.factorizations.base.Program`.

    The tensor as a matrix, its first modes against its last: W = K_left K_right^T with Khatri-Rao products K. One product forward and two
    back, whatever the order; the gradients of K then unfold to the factors' mode by mode.
    """

    def __init__(self, params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor) -> None:
        middle = split_modes(tuple(p.shape[1] for p in params))
        self.left, self.right = Side(params[:middle], grads[:middle]), Side(params[middle:], grads[middle:])
        grid = outer.view(len(outer), self.left.whole.shape[1], self.right.whole.shape[1])
        self.grid = torch.empty_like(grid)
        self.product = self.grid.view(len(outer), -1)
        self.products = [
            (grid, self.right.whole, self.left.gradient),
            (grid.mT, self.left.whole, self.right.gradient),
        ]
        self.right_transposed = self.right.whole.mT

    def forward(self) -> None:
        self.left.forward()
        self.right.forward()
        torch.bmm(self.left.whole, self.right_transposed, out=self.grid)

    def backward(self) -> None:
        for left, right, out in self.products:
            torch.bmm(left, right, out=out)
        self.left.backward()
        self.right.backward()


class Side:
    """A Khatri-Rao product of factors, or of tables of several modes each, built up one by one, and its gradient taken apart again.

    ``whole`` [R, d_1 ... d_k, C] is the product and ``gradient``, of the same shape, its gradient.
    """

    def __init__(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        chain, upper = [params[0]], [grads[0]]
        self.up: list[tuple[Tensor, Tensor, Tensor]] = []
        for factor in params[1:]:
            below = chain[-1]
            lanes, rows, terms = below.shape
            whole = below.new_empty(lanes, rows * factor.shape[1], terms)
            self.up.append((below.unsqueeze(2), factor.unsqueeze(1), whole.view(lanes, rows, -1, terms)))
            chain.append(whole)
            upper.append(torch.empty_like(whole))
        self.whole, self.gradient = chain[-1], upper[-1]
        scratch = torch.empty_like(self.whole) if len(params) > 1 else None
        self.down: list[tuple[Tensor, Tensor, Tensor, int, Tensor]] = []
        for n in range(len(params) - 1, 0, -1):
            assert scratch is not None
            below = chain[n - 1]
            split = (len(below), below.shape[1], params[n].shape[1], below.shape[2])
            gradient, room = upper[n].view(split), scratch.flatten()[: upper[n].numel()].view(split)
            self.down.append((gradient, below.unsqueeze(2), room, 1, grads[n]))
            self.down.append((gradient, params[n].unsqueeze(1), room, 2, upper[n - 1]))

    def forward(self) -> None:
        for below, factor, out in self.up:
            torch.mul(below, factor, out=out)

    def backward(self) -> None:
        for gradient, other, room, axis, out in self.down:
            torch.sum(torch.mul(gradient, other, out=room), axis, out=out)
