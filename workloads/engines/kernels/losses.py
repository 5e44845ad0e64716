"""Losses that are no multiple of squares inside generated kernels: a function of a prediction and an observation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.engines.kernels.elementary import FUNCTIONS
from workloads.engines.kernels.functions import CALLED, KNOWN, applied, definitions, number
from workloads.engines.kernels.source import somewhere
from workloads.engines.pointwise import Operand, Pointwise, pointwise
from workloads.factorizations.graphs.facts import Facts, facts_of
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from workloads.engines.lanes import Lanes

TWICE = ("scale + scale", "scale")
"""What the slope is multiplied by to give dL/dW: of squares, whose slope is the residual, and of other losses."""


def facts(spec: TrialSpec) -> Facts:
    """Return what is known of the graph of the loss of ``spec``."""
    return facts_of(spec.open_loss, (1,), spec.dtype)


def why_not(spec: TrialSpec) -> str:
    """Return why kernels cannot have the loss of ``spec``; empty where they can."""
    loss = spec.loss
    if loss.squares is not None:
        return ""
    if spec.optimizer is not None and "label_noise" in spec.optimizer.given:
        return f"its kernels take the noise off the residual, which loss {loss.kind} has none of"
    known = facts(spec)
    if known.why or not known.elementwise:
        return known.why or f"loss {loss.kind} has steps that are no functions of single numbers"
    if unknown := sorted({*known.functions} - KNOWN):
        return f"its kernels do not know {' and '.join(unknown)}, which loss {loss.kind} uses"
    return "" if known.finite else f"loss {loss.kind} has constants that are not finite"


def loss_of(lanes: Lanes) -> Pointwise | None:
    """Return the loss of lanes, or ``None`` where it is a multiple of the sum of squares."""
    if lanes.spec.loss.squares is not None:
        return None
    found = pointwise(lanes.spec.open_loss, lanes.dtype)
    assert not isinstance(found, str), "asked of what kernels can have"
    return found


def defined(loss: Pointwise, kind: str, width: int, dtype: str) -> list[str]:
    """Return a ``struct Loss`` whose function ``of(prediction, observation, value, slope)`` is of a ``kind`` of so many numbers.

    What it has of a lane's own are its members. Where nothing is observed, which an observation that is no number says, both are zero.
    """

    def code(operand: Operand) -> str:
        return operand if isinstance(operand, str) else number(operand)

    steps = [f"const {kind} {name} = {applied(function, [code(i) for i in inputs], width)};" for name, function, inputs in loss.steps]
    # Functions take longer than all else: not where no lane observes anything.
    called = bool(loss.functions & {*CALLED, *FUNCTIONS, "sigmoid"})
    skipped = [f"if (!{somewhere('y == y', width)}) {{ value = zero; slope = zero; return; }}"] * called
    return [
        "struct Loss {",
        *(f"{kind} {name};" for name in loss.numbers),
        *definitions(loss.functions, width, dtype, kind),
        f"inline CUDA_CALLABLE void of({kind} p, {kind} y, {kind}& value, {kind}& slope) const {{",
        f"const {kind} zero = {{}}, one = zero + (real)1;",
        *skipped,
        *steps,
        f"value = (y == y) ? {code(loss.value)} : zero;",
        f"slope = (y == y) ? {code(loss.slope)} : zero;",
        "}",
        "};",
    ]


def made(loss: Pointwise | None, first: int, spread: str = "") -> list[str]:
    """Return the code of a lane's ``loss_``, with its numbers from ``h``, from ``first`` on; ``spread`` makes vectors of them."""
    return [] if loss is None else [f"const Loss loss_ = {{{', '.join(f'{spread}h[{first + n}]' for n in range(len(loss.numbers)))}}};"]
