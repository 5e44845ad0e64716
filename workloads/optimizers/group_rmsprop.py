"""RMSprop with one step size for all parameters."""

from __future__ import annotations

from workloads.optimizers.base import Decay, Hyper, KernelStep, Optimizer, Params, Root, State, Step, over
from workloads.section import Positive
from workloads.stepping import Stepping


def _entry(w: str, g: str, state: list[str], root: Root) -> list[str]:  # noqa: ARG001
    return [f"{w} -= size * {g};"]


def _prepare(kind: str, root: Root) -> list[str]:
    return [
        "average = average * beta + squared * (one - beta);",
        "beta_power = beta_power * beta;",
        f"const {kind} size = lr / ({root('average / (one - beta_power)')} + eps);",
    ]


class GroupRmsprop(Optimizer):
    """One step size for all parameters: lr / (sqrt(bias-corrected moving average of the squared gradient norm) + eps)."""

    kind = "group_rmsprop"
    example = "{kind: group_rmsprop, lr: 1e-2}"
    stepping = Stepping(per_lane={"average": 0.0, "beta_power": 1.0})
    kernel = KernelStep(_entry, _prepare, whole=True)

    beta: Decay = 0.99
    """Decay of the moving average of the squared gradient norm."""
    eps: Positive = 1e-6
    """Added to the root of that average."""

    @classmethod
    def bind(cls, params: Params, grads: Params, state: State, hyper: Hyper) -> Step:
        """w <- w - lr / (sqrt(s / (1 - beta^t)) + eps) * g, with s the moving average of the squared norm of the whole gradient.

        One step size for all parameters of a lane (arXiv 2102.09972, appendix on experiments).
        """
        import torch

        average, power = state["average"][0], state["beta_power"][0]
        lr, beta, eps, rest = hyper["lr"], hyper["beta"], hyper["eps"], 1 - hyper["beta"]
        lanes = len(average)
        # Batched dot products: unlike sums over an axis they give a lane the same bits whatever the number of lanes.
        norms = average.new_empty(len(params), lanes)
        dots = [(g.view(lanes, 1, -1), g.view(lanes, -1, 1), norm.view(lanes, 1, 1)) for g, norm in zip(grads, norms, strict=True)]
        squared, size = torch.empty_like(average), torch.empty_like(average)
        rows = list(zip(params, grads, over(size, params), strict=True))

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
