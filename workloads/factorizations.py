"""Factorizations: from parameters to the end-to-end matrix or tensor, and gradients back, in closed form, R lanes at once.

A factorization knows its parameters' shapes and its product. `Program` is its training step for a fixed number of lanes, with every
buffer allocated once: ``forward`` gives the product [R, D], ``backward`` turns dL/dW [R, D] into the parameters' gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from workloads.shapes import parameter_shapes, split_modes
from workloads.spec import TrialSpec


class Program(Protocol):
    """The forward and backward pass of R lanes over preallocated buffers. ``params`` and ``grads`` are lists of [R, ...]."""

    def forward(self, params: Sequence[Tensor]) -> Tensor:
        """The product [R, D]; a buffer of the program, or a view of a parameter."""

    def backward(self, params: Sequence[Tensor], outer: Tensor, grads: Sequence[Tensor]) -> None:
        """Fill ``grads`` from ``outer`` = dL/dW [R, D], for the parameters of the last forward pass."""


class Factorization(Protocol):
    """How parameters make up the end-to-end matrix or tensor."""

    shape: tuple[int, ...]
    shapes: list[tuple[int, ...]]
    names: list[str]

    def product(self, params: Sequence[Tensor]) -> Tensor:
        """The end-to-end matrix or tensor [R, *shape] of parameters [R, ...]."""

    def program(self, lanes: int, dtype: torch.dtype, device: torch.device) -> Program:
        """A training step for ``lanes`` lanes."""


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

    def program(self, lanes: int, dtype: torch.dtype, device: torch.device) -> Program:
        return _DeepMatrixProgram(self.shapes, lanes, dtype, device)


class _DeepMatrixProgram:
    def __init__(self, shapes: Sequence[tuple[int, ...]], lanes: int, dtype: torch.dtype, device: torch.device) -> None:
        columns = shapes[0][1]
        rows = shapes[-1][0]
        self.shape = (lanes, rows, columns)
        # prefix[l] = W_(l+1) ... W_1 and suffix[l] = (W_L ... W_(l+2))^T dL/dW, which have the same shape.
        self.prefix = [torch.empty(lanes, out, columns, dtype=dtype, device=device) for out, _ in shapes[1:]]
        self.suffix = [torch.empty(lanes, out, columns, dtype=dtype, device=device) for out, _ in shapes[1:-1]]

    def forward(self, params: Sequence[Tensor]) -> Tensor:
        out = params[0]
        for factor, buffer in zip(params[1:], self.prefix, strict=True):
            out = torch.bmm(factor, out, out=buffer)
        return out.view(len(out), -1)

    def backward(self, params: Sequence[Tensor], outer: Tensor, grads: Sequence[Tensor]) -> None:
        below = [params[0], *self.prefix]
        upper = outer.view(self.shape)
        if len(params) == 1:
            grads[0].copy_(upper)
            return
        for layer in range(len(params) - 1, 0, -1):
            torch.bmm(upper, below[layer - 1].mT, out=grads[layer])
            target = self.suffix[layer - 2] if layer > 1 else grads[0]
            upper = torch.bmm(params[layer].mT, upper, out=target)


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

    def program(self, lanes: int, dtype: torch.dtype, device: torch.device) -> Program:
        return _CpProgram(self.shape, self.shapes[0][1], lanes, dtype, device)


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

    def __init__(self, shape: tuple[int, ...], terms: int, lanes: int, dtype: torch.dtype, device: torch.device) -> None:
        self.middle = split_modes(shape)
        self.left = _Side(shape[: self.middle], terms, lanes, dtype, device)
        self.right = _Side(shape[self.middle :], terms, lanes, dtype, device)
        self.product = torch.empty(lanes, self.left.size, self.right.size, dtype=dtype, device=device)

    def forward(self, params: Sequence[Tensor]) -> Tensor:
        left, right = self.left.forward(params[: self.middle]), self.right.forward(params[self.middle :])
        torch.bmm(left, right.mT, out=self.product)
        return self.product.view(len(self.product), -1)

    def backward(self, params: Sequence[Tensor], outer: Tensor, grads: Sequence[Tensor]) -> None:
        outer = outer.view(self.product.shape)
        middle = self.middle
        self.left.backward(params[:middle], outer, self.right.chain(params[middle:])[-1], grads[:middle])
        self.right.backward(params[middle:], outer.mT, self.left.chain(params[:middle])[-1], grads[middle:])


class _Side:
    """Some modes of a CP product: their Khatri-Rao product, built up one mode at a time, and its gradient taken apart again."""

    def __init__(self, dims: tuple[int, ...], terms: int, lanes: int, dtype: torch.dtype, device: torch.device) -> None:
        self.dims = dims
        self.size = math.prod(dims)
        sizes = [math.prod(dims[: n + 1]) for n in range(1, len(dims))]

        def buffers() -> list[Tensor]:
            return [torch.empty(lanes, size, terms, dtype=dtype, device=device) for size in sizes]

        self.partial, self.gradient = buffers(), buffers()
        self.scratch = torch.empty(lanes * self.size * terms if sizes else 0, dtype=dtype, device=device)

    def chain(self, params: Sequence[Tensor]) -> list[Tensor]:
        """The partial products [R, d_1 ... d_n, C] of the last forward pass."""
        return [params[0], *self.partial]

    def forward(self, params: Sequence[Tensor]) -> Tensor:
        out = params[0]
        for factor, buffer in zip(params[1:], self.partial, strict=True):
            grid = buffer.view(len(out), out.shape[1], factor.shape[1], -1)
            torch.mul(out.unsqueeze(2), factor.unsqueeze(1), out=grid)
            out = buffer
        return out

    def backward(self, params: Sequence[Tensor], outer: Tensor, other: Tensor, grads: Sequence[Tensor]) -> None:
        """Fill ``grads`` from ``outer`` [R, size, other's size] = dL/dW and the other side's Khatri-Rao product."""
        chain = self.chain(params)
        upper = torch.bmm(outer, other, out=self.gradient[-1] if self.partial else grads[0])
        for n in range(len(self.dims) - 1, 0, -1):
            below, factor = chain[n - 1], params[n]
            split = (len(below), below.shape[1], factor.shape[1], below.shape[2])
            scratch = self.scratch[: upper.numel()].view(split)
            torch.sum(torch.mul(upper.view(split), below.unsqueeze(2), out=scratch), 1, out=grads[n])
            target = self.gradient[n - 2] if n > 1 else grads[0]
            upper = torch.sum(torch.mul(upper.view(split), factor.unsqueeze(1), out=scratch), 2, out=target)


class LinearFactorization:
    """The matrix or tensor itself, one parameter ``W`` [*shape]."""

    def __init__(self, spec: TrialSpec) -> None:
        self.shape = spec.shape
        self.shapes = parameter_shapes(spec)
        self.names = ["W"]

    def product(self, params: Sequence[Tensor]) -> Tensor:
        return params[0]

    def program(self, lanes: int, dtype: torch.dtype, device: torch.device) -> Program:  # noqa: ARG002
        return _LinearProgram()


class _LinearProgram:
    def forward(self, params: Sequence[Tensor]) -> Tensor:
        return params[0].view(len(params[0]), -1)

    def backward(self, params: Sequence[Tensor], outer: Tensor, grads: Sequence[Tensor]) -> None:  # noqa: ARG002
        grads[0].copy_(outer.view_as(grads[0]))


FACTORIZATIONS: dict[str, type[DeepMatrixFactorization] | type[CpFactorization] | type[LinearFactorization]] = {
    "deep_matrix": DeepMatrixFactorization,
    "cp": CpFactorization,
    "linear": LinearFactorization,
}


def factorization_of(spec: TrialSpec) -> Factorization:
    """The factorization that ``spec`` names, for its shape."""
    return FACTORIZATIONS[spec.factorization.kind](spec)
