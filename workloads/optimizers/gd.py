"""Gradient descent."""

from __future__ import annotations

from collections.abc import Mapping

from workloads.optimizers.base import Hyper, KernelStep, Optimizer, Params, Root, State, Step, over


def _entry(w: str, g: str, state: list[str], root: Root) -> list[str]:  # noqa: ARG001
    return [f"{w} -= {g};"]


class Gd(Optimizer):
    """Plain gradient descent."""

    kind = "gd"
    example = "{kind: gd, lr: 3e-3}"
    kernel = KernelStep(_entry, outer="rate")

    @property
    def keeps_time(self) -> bool:
        # What options make of gradients is no flow of the loss.
        return not self.given

    def time_at(self, step: int, state: Mapping[str, float]) -> float:
        # Of Euler's method.
        return step * self.lr

    @classmethod
    def bind(cls, params: Params, grads: Params, state: State, hyper: Hyper) -> Step:
        """w <- w - lr * g."""
        rows = list(zip(params, grads, over(hyper["lr"], params), strict=True))

        def step() -> None:
            for w, g, lr in rows:
                w.addcmul_(g, lr, value=-1)

        return step
