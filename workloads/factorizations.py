"""Factorizations: from parameters to the end-to-end matrix or tensor, and gradients back, in closed form, R lanes at once.

A factorization knows its parameters' shapes and its product. `Program` is its training step for one set of lanes, with every buffer
and every view of one made once: a call of PyTorch that makes a view costs as much as a small product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from workloads.shapes import parameter_shapes, split_modes
from workloads.spec import TrialSpec


class Program(Protocol):
    """The forward and backward pass of R lanes, bound to their parameters and gradients [R, ...] and to dL/dW [R, D]."""

    product: Tensor
    """The end-to-end matrix or tensor [R, D]: a buffer, or a view of a parameter."""

    def forward(self) -> None:
        """Bring ``product`` up to date with the parameters."""

    def backward(self) -> None:
        """Fill the gradients from dL/dW, for the parameters of the last forward pass."""


class Factorization(Protocol):
    """How parameters make up the end-to-end matrix or tensor."""

    shape: tuple[int, ...]
    shapes: list[tuple[int, ...]]
    names: list[str]

    def product(self, params: Sequence[Tensor]) -> Tensor:
        """The end-to-end matrix or tensor [R, *shape] of parameters [R, ...]."""

    def program(self, params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor) -> Program:
        """A training step bound to parameters and gradients [R, ...] and to dL/dW ``outer`` [R, D]."""


class DeepMatrixFactorization:
    """W = W_L ... W_1 (arXiv 1905.13655, equation 2). Parameters ``W1`` ... ``WL``, W_l of shape [width_l, width_(l-1)]."""

    def __init__(self, spec: TrialSpec) -> None:
        self.shape = spec.shape
        self.shapes = parameter_shapes(spec)
        self.names = [f"W{layer + 1}" for layer in range(len(self.shapes))]

    def product(self, params: Sequence[Tensor]) -> Tensor:
        out = params[0]
        for factor in params[1:]:
            out = factor @ out
        return out

    def program(self, params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor) -> Program:
        return _DeepMatrixProgram(params, grads, outer)


class _DeepMatrixProgram:
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


class CpFactorization:
    """W = sum over r of a_r^1 x ... x a_r^N (arXiv 2102.09972, equation 2). Parameters ``A1`` ... ``AN``, A_n of shape [d_n, C]."""

    def __init__(self, spec: TrialSpec) -> None:
        self.shape = spec.shape
        self.shapes = parameter_shapes(spec)
        self.names = [f"A{mode + 1}" for mode in range(len(self.shapes))]

    def product(self, params: Sequence[Tensor]) -> Tensor:
        middle = split_modes(self.shape)
        left, right = khatri_rao(params[:middle]), khatri_rao(params[middle:])
        return (left @ right.mT).view(len(left), *self.shape)

    def program(self, params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor) -> Program:
        return _CpProgram(self.shape, params, grads, outer)


def khatri_rao(factors: Sequence[Tensor]) -> Tensor:
    """Column-wise Kronecker product [R, d_1 ... d_k, C] of factors [R, d_n, C]; the last factor's index runs fastest."""
    out = factors[0]
    for factor in factors[1:]:
        out = (out.unsqueeze(2) * factor.unsqueeze(1)).flatten(1, 2)
    return out


class _CpProgram:
    """The tensor as a matrix: its first modes against its last, W = K_left K_right^T with Khatri-Rao products K.

    One product forward and two back, whatever the order; the gradients of K then unfold to the factors' mode by mode.
    """

    def __init__(self, shape: tuple[int, ...], params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor) -> None:
        middle = split_modes(shape)
        self.left, self.right = _Side(params[:middle], grads[:middle]), _Side(params[middle:], grads[middle:])
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


class _Side:
    """Some modes of a CP product: their Khatri-Rao product, built up one mode at a time, and its gradient taken apart again.

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


class LinearFactorization:
    """The matrix or tensor itself, one parameter ``W`` [*shape]."""

    def __init__(self, spec: TrialSpec) -> None:
        self.shape = spec.shape
        self.shapes = parameter_shapes(spec)
        self.names = ["W"]

    def product(self, params: Sequence[Tensor]) -> Tensor:
        return params[0]

    def program(self, params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor) -> Program:
        return _LinearProgram(params[0], grads[0], outer)


class _LinearProgram:
    def __init__(self, param: Tensor, grad: Tensor, outer: Tensor) -> None:
        self.product = param.view(len(param), -1)
        self.grad, self.outer = grad, outer.view(grad.shape)

    def forward(self) -> None:
        """The parameter is the product."""

    def backward(self) -> None:
        self.grad.copy_(self.outer)


FACTORIZATIONS: dict[str, type[DeepMatrixFactorization] | type[CpFactorization] | type[LinearFactorization]] = {
    "deep_matrix": DeepMatrixFactorization,
    "cp": CpFactorization,
    "linear": LinearFactorization,
    "min_frobenius": LinearFactorization,
    "nuclear_norm": LinearFactorization,
}


def factorization_of(spec: TrialSpec) -> Factorization:
    """The factorization that ``spec`` names, for its shape."""
    return FACTORIZATIONS[spec.factorization.kind](spec)
