"""Optimizers: one update of R lanes, each with hyperparameters of its own.

An optimizer is a row of `OPTIMIZERS`: the hyperparameters it reads (each a tensor [R]), the state it keeps, and a function that is
given parameters, gradients, state and hyperparameters once and returns what takes a step on them in place. Views and scratch are made
beforehand, so that a step allocates nothing. State that looks like the parameters is a list of [R, ...]; state per lane is a tensor [R].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Params = Sequence[Tensor]
State = Mapping[str, list[Tensor]]
Hyper = Mapping[str, Tensor]
Step = Callable[[], None]


@dataclass(frozen=True)
class OptimizerRow:
    """``hyper`` names the spec's fields that become [R] tensors; ``like_params`` and ``per_lane`` name the state and its start value.

    ``bind`` is ``None`` for what an engine of its own solves.
    """

    hyper: tuple[str, ...]
    bind: Callable[[Params, Params, State, Hyper], Step] | None
    like_params: tuple[str, ...] = ()
    per_lane: tuple[tuple[str, float], ...] = ()


def _over(lanes: Tensor, params: Params) -> list[Tensor]:
    """Views of [R] that broadcast over each parameter [R, ...]."""
    return [lanes.view(-1, *(1,) * (p.dim() - 1)) for p in params]


def gd(params: Params, grads: Params, state: State, hyper: Hyper) -> Step:  # noqa: ARG001
    """w <- w - lr * g."""
    rows = list(zip(params, grads, _over(hyper["lr"], params), strict=True))

    def step() -> None:
        for w, g, lr in rows:
            w.addcmul_(g, lr, value=-1)

    return step


def momentum(params: Params, grads: Params, state: State, hyper: Hyper) -> Step:
    """v <- momentum * v + g; w <- w - lr * v (Polyak 1964, in PyTorch's form)."""
    rows = list(
        zip(params, grads, state["velocity"], _over(hyper["lr"], params), _over(hyper["momentum"], params), strict=True),
    )

    def step() -> None:
        for w, g, v, lr, factor in rows:
            v.mul_(factor).add_(g)
            w.addcmul_(v, lr, value=-1)

    return step


def group_rmsprop(params: Params, grads: Params, state: State, hyper: Hyper) -> Step:
    """w <- w - lr / (sqrt(s / (1 - beta^t)) + eps) * g, with s the moving average of the squared norm of the whole gradient.

    One step size for all parameters of a lane (arXiv 2102.09972, appendix on experiments).
    """
    average, power = state["average"][0], state["beta_power"][0]
    lr, beta, eps, rest = hyper["lr"], hyper["beta"], hyper["eps"], 1 - hyper["beta"]
    lanes = len(average)
    # Batched dot products: unlike sums over an axis they give a lane the same bits whatever the number of lanes.
    norms = average.new_empty(len(params), lanes)
    dots = [(g.view(lanes, 1, -1), g.view(lanes, -1, 1), norm.view(lanes, 1, 1)) for g, norm in zip(grads, norms, strict=True)]
    squared, size = torch.empty_like(average), torch.empty_like(average)
    rows = list(zip(params, grads, _over(size, params), strict=True))

    def step() -> None:
        for left, right, out in dots:
            torch.bmm(left, right, out=out)
        torch.sum(norms, 0, out=squared)
        average.mul_(beta).addcmul_(squared, rest)
        power.mul_(beta)
        torch.sub(1, power, out=size)
        torch.div(average, size, out=size)
        size.sqrt_().add_(eps)
        torch.div(lr, size, out=size)
        for w, g, each in rows:
            w.addcmul_(g, each, value=-1)

    return step


def adam(params: Params, grads: Params, state: State, hyper: Hyper) -> Step:
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1)."""
    first_power, second_power = state["beta1_power"][0], state["beta2_power"][0]
    lr, beta1, beta2 = hyper["lr"], hyper["beta1"], hyper["beta2"]
    rate, correction = torch.empty_like(lr), torch.empty_like(lr)
    over = (_over(lanes, params) for lanes in (1 - beta1, beta2, 1 - beta2, correction, hyper["eps"], rate))
    rows = list(zip(params, grads, state["first"], state["second"], [torch.empty_like(p) for p in params], *over, strict=True))

    def step() -> None:
        first_power.mul_(beta1)
        second_power.mul_(beta2)
        torch.div(lr, torch.sub(1, first_power, out=rate), out=rate)
        torch.sub(1, second_power, out=correction).sqrt_()
        for w, g, m, v, room, rest1, keep2, rest2, scale, eps, size in rows:
            m.lerp_(g, rest1)
            v.mul_(keep2).addcmul_(g, torch.mul(g, rest2, out=room))
            torch.sqrt(v, out=room).div_(scale).add_(eps)
            w.addcmul_(torch.div(m, room, out=room), size, value=-1)

    return step


OPTIMIZERS: dict[str, OptimizerRow] = {
    "gd": OptimizerRow(("lr",), gd),
    "momentum": OptimizerRow(("lr", "momentum"), momentum, like_params=("velocity",)),
    "group_rmsprop": OptimizerRow(("lr", "beta", "eps"), group_rmsprop, per_lane=(("average", 0.0), ("beta_power", 1.0))),
    "adam": OptimizerRow(
        ("lr", "beta1", "beta2", "eps"), adam, like_params=("first", "second"), per_lane=(("beta1_power", 1.0), ("beta2_power", 1.0))
    ),
    "min_frobenius": OptimizerRow((), None),
    "nuclear_norm": OptimizerRow((), None, like_params=("shadow",), per_lane=(("penalty", 0.0),)),
}
"""By `workloads.spec.TrialSpec.method`."""
