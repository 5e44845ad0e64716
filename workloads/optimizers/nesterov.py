"""Gradient descent with Nesterov's momentum."""

from __future__ import annotations

from workloads.optimizers.base import Decay, Hyper, KernelStep, Optimizer, Params, Root, State, Step, over
from workloads.stepping import Stepping


def _entry(w: str, g: str, state: list[str], root: Root) -> list[str]:  # noqa: ARG001
    return [f"{state[0]} = momentum * {state[0]} + {g};", f"{w} -= lr * ({g} + momentum * {state[0]});"]


class Nesterov(Optimizer):
    """Nesterov's: v <- momentum * v + gradient, w <- w - lr * (gradient + momentum * v) (Sutskever et al. 2013, in PyTorch's form)."""

    kind = "nesterov"
    example = "{kind: nesterov, lr: 1e-3}"
    stepping = Stepping(like_params=("velocity",), scratch=1)
    kernel = KernelStep(_entry)

    momentum: Decay = 0.9
    """Share of the velocity that is kept from step to step."""

    @classmethod
    def bind(cls, params: Params, grads: Params, state: State, hyper: Hyper) -> Step:
        """v <- momentum * v + g; w <- w - lr * (g + momentum * v)."""
        room = [g.new_empty(g.shape) for g in grads]
        rows = list(
            zip(params, grads, state["velocity"], room, over(hyper["lr"], params), over(hyper["momentum"], params), strict=True),
        )

        def step() -> None:
            for w, g, v, ahead, lr, factor in rows:
                v.mul_(factor).add_(g)
                ahead.copy_(g).addcmul_(v, factor)
                w.addcmul_(ahead, lr, value=-1)

        return step
