"""Optimizer steps inside generated kernels: the arithmetic of `workloads.optimizers`, entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workloads.engines.kernels.source import root

Prepare = Callable[[str, int], list[str]]
Entry = Callable[[str, str, list[str], int], list[str]]


@dataclass(frozen=True)
class Update:
    """How a kernel takes one optimizer's step.

    ``hyper`` names the hyperparameters, variables of the kernel; ``arrays`` the state kept per parameter, ``numbers`` per lane: the
    names and their order are those of `workloads.optimizers.OPTIMIZERS`. ``entry(w, g, state, width)`` is code that changes the
    parameter ``w`` by its gradient ``g``, with one expression of ``state`` for each of ``arrays``; ``prepare(kind, width)`` is what comes
    before the entries, once a step, in variables of type ``kind``. ``width`` is how many numbers a ``vec`` has, or 1. ``outer`` is what
    the residual is multiplied by to give dL/dW, which may have the learning rate in it already. ``whole`` says that no parameter
    may change before the squared norm of the whole gradient, ``squared``, is known.
    """

    hyper: tuple[str, ...]
    entry: Entry
    prepare: Prepare = lambda kind, width: []  # noqa: ARG005
    outer: str = "twice"
    arrays: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    whole: bool = False


def _gd(w: str, g: str, state: list[str], width: int) -> list[str]:  # noqa: ARG001
    return [f"{w} -= {g};"]


def _momentum(w: str, g: str, state: list[str], width: int) -> list[str]:  # noqa: ARG001
    return [f"{state[0]} = momentum * {state[0]} + {g};", f"{w} -= lr * {state[0]};"]


def _group_rmsprop(w: str, g: str, state: list[str], width: int) -> list[str]:  # noqa: ARG001
    return [f"{w} -= size * {g};"]


def _prepare_group_rmsprop(kind: str, width: int) -> list[str]:
    return [
        "average = average * beta + squared * (one - beta);",
        "beta_power = beta_power * beta;",
        f"const {kind} size = lr / ({root('average / (one - beta_power)', width)} + eps);",
    ]


def _adam(w: str, g: str, state: list[str], width: int) -> list[str]:
    return [
        f"{state[0]} = {state[0]} + (one - beta1) * ({g} - {state[0]});",
        f"{state[1]} = beta2 * {state[1]} + (one - beta2) * ({g} * {g});",
        f"{w} -= size * ({state[0]} / ({root(state[1], width)} / correction + eps));",
    ]


def _prepare_adam(kind: str, width: int) -> list[str]:
    return [
        "beta1_power = beta1_power * beta1;",
        "beta2_power = beta2_power * beta2;",
        f"const {kind} size = lr / (one - beta1_power);",
        f"const {kind} correction = {root('one - beta2_power', width)};",
    ]


UPDATES = {
    "gd": Update(("lr",), _gd, outer="rate"),
    "momentum": Update(("lr", "momentum"), _momentum, arrays=("velocity",)),
    "group_rmsprop": Update(("lr", "beta", "eps"), _group_rmsprop, _prepare_group_rmsprop, numbers=("average", "beta_power"), whole=True),
    "adam": Update(
        ("lr", "beta1", "beta2", "eps"), _adam, _prepare_adam, arrays=("first", "second"), numbers=("beta1_power", "beta2_power")
    ),
}
"""Optimizers that kernels are generated for. No torch here: planning reads the names."""
