"""Optimizers: one update of R lanes, each with hyperparameters of its own.

An optimizer is a row of `OPTIMIZERS`: the hyperparameters it reads (each a tensor [R]), the state it keeps, and a function that
updates parameters and state in place. State that looks like the parameters is a list of [R, ...]; state per lane is a tensor [R].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Params = Sequence[Tensor]
State = Mapping[str, list[Tensor]]
Hyper = Mapping[str, Tensor]


@dataclass(frozen=True)
class OptimizerRow:
    """``hyper`` names the spec's fields that become [R] tensors; ``like_params`` and ``per_lane`` name the state and its start value."""

    hyper: tuple[str, ...]
    update: Callable[[Params, Params, State, Hyper], None]
    like_params: tuple[str, ...] = ()
    per_lane: tuple[tuple[str, float], ...] = ()


def _over(lanes: Tensor, like: Tensor) -> Tensor:
    """View [R] so that it broadcasts over [R, ...]."""
    return lanes.view(-1, *(1,) * (like.dim() - 1))


def gd(params: Params, grads: Params, state: State, hyper: Hyper) -> None:  # noqa: ARG001
    """w <- w - lr * g."""
    for w, g in zip(params, grads, strict=True):
        w.addcmul_(g, _over(hyper["lr"], g), value=-1)


def momentum(params: Params, grads: Params, state: State, hyper: Hyper) -> None:
    """v <- momentum * v + g; w <- w - lr * v (Polyak 1964, in PyTorch's form)."""
    for w, g, v in zip(params, grads, state["velocity"], strict=True):
        v.mul_(_over(hyper["momentum"], v)).add_(g)
        w.addcmul_(v, _over(hyper["lr"], v), value=-1)


def group_rmsprop(params: Params, grads: Params, state: State, hyper: Hyper) -> None:
    """w <- w - lr / (sqrt(s / (1 - beta^t)) + eps) * g, with s the moving average of the squared norm of the whole gradient.

    One step size for all parameters of a lane (arXiv 2102.09972, appendix on experiments).
    """
    average, power = state["average"][0], state["beta_power"][0]
    beta = hyper["beta"]
    squared = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0)
    average.mul_(beta).add_(squared * (1 - beta))
    power.mul_(beta)
    rate = hyper["lr"] / ((average / (1 - power)).sqrt_() + hyper["eps"])
    for w, g in zip(params, grads, strict=True):
        w.addcmul_(g, _over(rate, g), value=-1)


def adam(params: Params, grads: Params, state: State, hyper: Hyper) -> None:
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1)."""
    first_power, second_power = state["beta1_power"][0], state["beta2_power"][0]
    first_power.mul_(hyper["beta1"])
    second_power.mul_(hyper["beta2"])
    rate = hyper["lr"] / (1 - first_power)
    correction = (1 - second_power).sqrt()
    for w, g, m, v in zip(params, grads, state["first"], state["second"], strict=True):
        m.lerp_(g, _over(1 - hyper["beta1"], g))
        v.mul_(_over(hyper["beta2"], v)).addcmul_(g, g * _over(1 - hyper["beta2"], g))
        denominator = v.sqrt().div_(_over(correction, v)).add_(_over(hyper["eps"], v))
        w.addcmul_(m / denominator, _over(rate, m), value=-1)


OPTIMIZERS: dict[str, OptimizerRow] = {
    "gd": OptimizerRow(("lr",), gd),
    "momentum": OptimizerRow(("lr", "momentum"), momentum, like_params=("velocity",)),
    "group_rmsprop": OptimizerRow(("lr", "beta", "eps"), group_rmsprop, per_lane=(("average", 0.0), ("beta_power", 1.0))),
    "adam": OptimizerRow(
        ("lr", "beta1", "beta2", "eps"), adam, like_params=("first", "second"), per_lane=(("beta1_power", 1.0), ("beta2_power", 1.0))
    ),
}
