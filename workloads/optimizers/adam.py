"""Adam."""

from __future__ import annotations

from typing import ClassVar

from workloads.optimizers.base import Decay, Hyper, KernelStep, Optimizer, Params, Root, State, Step, over
from workloads.section import Positive
from workloads.stepping import Stepping


def _entry(w: str, g: str, state: list[str], root: Root) -> list[str]:
    return [
        f"{state[0]} = {state[0]} + (one - beta1) * ({g} - {state[0]});",
        f"{state[1]} = beta2 * {state[1]} + (one - beta2) * ({g} * {g});",
        f"{w} -= size * ({state[0]} / ({root(state[1])} / correction + eps));",
    ]


def _prepare(kind: str, root: Root) -> list[str]:
    return [
        "beta1_power = beta1_power * beta1;",
        "beta2_power = beta2_power * beta2;",
        f"const {kind} size = lr / (one - beta1_power);",
        f"const {kind} correction = {root('one - beta2_power')};",
    ]


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1)."""

    kind = "adam"
    example = "{kind: adam, lr: 1e-3, beta2: 0.99}"
    stepping = Stepping(like_params=("first", "second"), per_lane={"beta1_power": 1.0, "beta2_power": 1.0}, scratch=1)
    kernel: ClassVar[KernelStep | None] = KernelStep(_entry, _prepare)

    beta1: Decay = 0.9
    """Decay of the moving average of gradients."""
    beta2: Decay = 0.999
    """Decay of the moving average of their squares."""
    eps: Positive = 1e-8
    """Added to the root of that average."""

    @classmethod
    def bind(cls, params: Params, grads: Params, state: State, hyper: Hyper) -> Step:
        """Adam with bias correction."""
        import torch

        first_power, second_power = state["beta1_power"][0], state["beta2_power"][0]
        lr, beta1, beta2 = hyper["lr"], hyper["beta1"], hyper["beta2"]
        rate, correction = torch.empty_like(lr), torch.empty_like(lr)
        each = (over(lanes, params) for lanes in (1 - beta1, beta2, 1 - beta2, correction, hyper["eps"], rate))
        rows = list(zip(params, grads, state["first"], state["second"], [torch.empty_like(p) for p in params], *each, strict=True))

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
