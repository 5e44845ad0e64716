"""Gradient flow, integrated to a tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from workloads.optimizers.base import OPTIONS, Hyper, Optimizer, Params, State, Step
from workloads.section import Conflict, Finite, Positive, canonical_json
from workloads.stepping import Stepping
from workloads.stop import Stop, holds_from

STAGES = 7
"""Gradients of a step; each is kept until its end, beside where it begins and leads, its error, and what that may be."""


class GradientFlow(Optimizer):
    """dw/dt = −∇ℓ(w), the limit of small steps, by Dormand and Prince's pair of orders five and four. Each trial has its own step size; an
    attempt whose error was too large counts as a step, too. The measure `time` is t; a trial that ends by it, as
    with `stop: {when: time > 50}`, ends at just that time."""

    kind = "gradient_flow"
    example = "{kind: gradient_flow, lr: 1e-3, rtol: 1e-8}"
    stepping = Stepping(per_lane={"size": 0.0, "time": 0.0, "refused": 0.0}, scratch=STAGES + 4)
    evaluations: ClassVar[int] = STAGES
    refuses = OPTIONS

    lr: Positive = 1e-3
    """Size of the first step; all others follow from the tolerances."""
    rtol: Annotated[Finite, Field(ge=1e-14, lt=1)] = 1e-6
    """Error that a step may make in a parameter, relative to it, root mean square over all of them."""
    atol: Annotated[Finite, Field(ge=1e-30, lt=1)] = 1e-9
    """Error that it may make besides, where parameters are near zero."""

    @property
    def keeps_time(self) -> bool:
        return True

    def time_at(self, step: int, state: Mapping[str, float]) -> float:
        return state["time"]

    def numbers(self, stop: Stop) -> dict[str, float]:
        return super().numbers(stop) | {"until": _until(stop)}

    def canonical_with(self, stop: Stop) -> str:
        until = _until(stop)
        return canonical_json({**self.canonical_fields, "until": until}) if math.isfinite(until) else self.canonical

    def conflicts(self, observations: int | None) -> Iterator[Conflict]:
        for key in self.refuses:
            if getattr(self, key) is not None:
                yield f"optimizer.{key}", "has no effect with optimizer.kind gradient_flow: the flow is that of the loss alone"

    @classmethod
    def bind(cls, params: Params, grads: Params, state: State, hyper: Hyper) -> Step:
        """Raise `NotImplementedError`: a step needs several gradients."""
        raise NotImplementedError("gradient_flow is integrated")

    @classmethod
    def integrate(cls, params: Params, grads: Params, state: State, hyper: Hyper, gradient: Step) -> Step:
        """w(t + dt) by six further gradients, of an error that follows from them (Dormand and Prince 1980)."""
        from workloads.optimizers.numerics.dormand_prince import DormandPrince

        return DormandPrince(params, grads, state, hyper, gradient).step


def _until(stop: Stop) -> float:
    """Return the time at which a trial ends, whatever else is true of it."""
    return min((holds_from(condition, "time") for condition in stop.conditions.values()), default=math.inf)
