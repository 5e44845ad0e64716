"""Gradient descent with momentum."""

from __future__ import annotations

from workloads.optimizers.base import Decay, Hyper, KernelStep, Optimizer, Params, Root, State, Step, over
from workloads.stepping import Stepping


def _entry(w: str, g: str, state: list[str], root: Root) -> list[str]:  # noqa: ARG001
    return [f"{state[0]} = momentum * {state[0]} + {g};", f"{w} -= lr * {state[0]};"]


class Momentum(Optimizer):
    """Heavy ball: v <- momentum * v + gradient, w <- w - lr * v (Polyak 1964, in PyTorch's form)."""

    kind = "momentum"
    example = "{kind: momentum, lr: 1e-3, momentum: 0.95}"
    stepping = Stepping(like_params=("velocity",))
    kernel = KernelStep(_entry)

    momentum: Decay = 0.9
    """Share of the velocity that is kept from step to step."""

    @classmethod
    def bind(cls, params: Params, grads: Params, state: State, hyper: Hyper) -> Step:
        """v <- momentum * v + g; w <- w - lr * v."""
        rows = list(
            zip(params, grads, state["velocity"], over(hyper["lr"], params), over(hyper["momentum"], params), strict=True),
        )

        def step() -> None:
            for w, g, v, lr, factor in rows:
                v.mul_(factor).add_(g)
                w.addcmul_(v, lr, value=-1)

        return step
