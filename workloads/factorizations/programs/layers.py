"""Fully connected layers of R lanes: forward, and the gradient in closed form (Rumelhart, Hinton and Williams 1986)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from workloads.factorizations.programs.listed import ListedProgram
from workloads.factorizations.programs.room import room, starts_on_lines

aten = torch.ops.aten


@dataclass(frozen=True)
class Layer:
    """x → a(W x + b): the places of the weights and of the bias, if there is one, among a network's factors, and the name of a."""

    weights: int
    bias: int | None
    activation: str


@dataclass(frozen=True)
class Activation:
    """A function of single numbers, in place; ``back(d, a, out)`` makes gradients by what led to the values a of gradients d by these."""

    apply: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Tensor, Tensor], Tensor]


ACTIVATIONS = {
    "relu": Activation(lambda z: z.relu_(), lambda d, a, out: aten.threshold_backward.grad_input(d, a, 0, grad_input=out)),
    "sigmoid": Activation(lambda z: z.sigmoid_(), lambda d, a, out: aten.sigmoid_backward.grad_input(d, a, grad_input=out)),
    "tanh": Activation(lambda z: z.tanh_(), lambda d, a, out: aten.tanh_backward.grad_input(d, a, grad_input=out)),
}
"""All but the identity."""


def through(layers: Sequence[Layer], factors: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Return what ``layers`` make of ``inputs`` [R or 1, B, n] with factors [R, ...]: values [R, B, m] that autograd can differentiate."""
    values = inputs
    for layer in layers:
        values = values @ factors[layer.weights].mT
        if layer.bias is not None:
            values = values + factors[layer.bias].unsqueeze(1)
        if layer.activation != "identity":
            values = getattr(torch, layer.activation)(values)
    return values


class LayersProgram(ListedProgram):
    """See `workloads.factorizations.base.Program`, for ``inputs`` [R, B, n] that may change from step to step.

    All operands of a lane lie on lines of cache of their own, so that it has the same bits in any place.
    """

    def __init__(self, layers: Sequence[Layer], params: Sequence[Tensor], grads: Sequence[Tensor], inputs: Tensor, outer: Tensor) -> None:
        super().__init__()
        lanes, shown = inputs.shape[:2]
        aligned = [self._aligned(p) for p in params]
        values = [self._aligned(inputs)]
        for layer in layers:
            values.append(room(lanes, (shown, params[layer.weights].shape[1]), outer))
            self._add_forward(layer, aligned, values[-2], values[-1])
        self.product = values[-1].view(lanes, -1)
        ones = room(lanes, (1, shown), outer).fill_(1.0)
        upper = outer.view(lanes, shown, -1)
        for place in range(len(layers) - 1, -1, -1):
            upper = self._add_slope(layers[place].activation, upper, values[place + 1], own=place == len(layers) - 1)
            self._add_gradients(layers[place], upper, values[place], ones, grads)
            if place:
                lower = room(len(values[place]), values[place].shape[1:], values[place])
                self._backward.append(partial(torch.bmm, upper, aligned[layers[place].weights], out=lower))
                upper = lower

    def _aligned(self, tensor: Tensor) -> Tensor:
        """Return a tensor [R, ...], or a copy that is made in each step, all lanes of which lie alike."""
        if starts_on_lines(tensor):
            return tensor
        copy = room(len(tensor), tensor.shape[1:], tensor)
        self._forward.append(partial(copy.copy_, tensor))
        return copy

    def _add_forward(self, layer: Layer, params: Sequence[Tensor], below: Tensor, out: Tensor) -> None:
        weights = params[layer.weights].mT
        if layer.bias is None:
            self._forward.append(partial(torch.bmm, below, weights, out=out))
        else:
            self._forward.append(partial(torch.baddbmm, params[layer.bias].unsqueeze(1), below, weights, out=out))
        if layer.activation != "identity":
            self._forward.append(partial(ACTIVATIONS[layer.activation].apply, out))

    def _add_slope(self, activation: str, upper: Tensor, values: Tensor, *, own: bool) -> Tensor:
        """Add what takes gradients by ``values`` to those by what led to them, in place unless they are somebody else's ``own``."""
        if activation == "identity":
            return upper
        out = room(len(values), values.shape[1:], values) if own else upper
        self._backward.append(partial(ACTIVATIONS[activation].back, upper, values, out))
        return out

    def _add_gradients(self, layer: Layer, upper: Tensor, below: Tensor, ones: Tensor, grads: Sequence[Tensor]) -> None:
        self._backward.append(partial(torch.bmm, upper.mT, below, out=grads[layer.weights]))
        if layer.bias is not None:
            # As a matrix product: a sum over an axis may add up in another order where there are other lanes.
            self._backward.append(partial(torch.bmm, ones, upper, out=grads[layer.bias].unsqueeze(1)))
