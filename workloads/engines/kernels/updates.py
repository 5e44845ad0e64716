"""Optimizer steps inside generated kernels: the arithmetic of `workloads.optimizers`, entry by entry."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.engines.kernels.source import Writer, root


@dataclass(frozen=True)
class Update:
    """How a kernel takes one optimizer's step.

    ``hyper`` names the hyperparameters, variables of the kernel; ``arrays`` the state kept per parameter, ``numbers`` per lane. ``outer``
    is what the residual is multiplied by to give dL/dW, which may have the learning rate in it already. ``whole`` says that no
    parameter may change before the gradient of all is known.
    """

    hyper: tuple[str, ...]
    outer: str = "twice"
    arrays: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    whole: bool = False

    def prepare(self, write: Writer, width: int) -> None:
        """What comes before the entries, once a step. ``squared`` is the squared norm of the gradient where it is ``whole``."""
        if self is UPDATES["group_rmsprop"]:
            write("average = average * beta + squared * (one - beta);", "beta_power = beta_power * beta;")
            write(f"vec size = lr / ({root('average / (one - beta_power)', width)} + eps);")
        if self is UPDATES["adam"]:
            write("beta1_power = beta1_power * beta1;", "beta2_power = beta2_power * beta2;")
            write("vec size = lr / (one - beta1_power);", f"vec correction = {root('one - beta2_power', width)};")

    def entry(self, write: Writer, width: int, w: str, g: str, state: list[str]) -> None:
        """Change the parameter ``w`` by its gradient ``g``, with its ``state``, one expression for each of ``arrays``."""
        if self is UPDATES["gd"]:
            write(f"{w} -= {g};")
        elif self is UPDATES["momentum"]:
            write(f"{state[0]} = momentum * {state[0]} + {g};", f"{w} -= lr * {state[0]};")
        elif self is UPDATES["group_rmsprop"]:
            write(f"{w} -= size * {g};")
        else:
            write(f"{state[0]} = {state[0]} + (one - beta1) * ({g} - {state[0]});")
            write(f"{state[1]} = beta2 * {state[1]} + (one - beta2) * ({g} * {g});")
            write(f"{w} -= size * ({state[0]} / ({root(state[1], width)} / correction + eps));")


UPDATES = {
    "gd": Update(("lr",), outer="rate"),
    "momentum": Update(("lr", "momentum"), arrays=("velocity",)),
    "group_rmsprop": Update(("lr", "beta", "eps"), numbers=("average", "beta_power"), whole=True),
    "adam": Update(("lr", "beta1", "beta2", "eps"), arrays=("first", "second"), numbers=("beta1_power", "beta2_power")),
}
"""Optimizers that kernels are generated for, with names and order of `workloads.optimizers.OPTIMIZERS`."""
