"""Losses as functions of numbers: of one prediction and one observation, with the derivative by the prediction. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from workloads.factorizations.graphs.graph import Graph, Map, Step
from workloads.factorizations.graphs.known import graph_of
from workloads.factorizations.graphs.opened import Opened
from workloads.factorizations.graphs.views import View
from workloads.losses import Loss

if TYPE_CHECKING:
    import torch

Operand = str | float
"""A number, or the name of one that is known: the prediction ``p``, the observation ``y``, a number of the lane, or what a step made."""
Steps = tuple[tuple[str, str, tuple[Operand, ...]], ...]
"""Each a name, an elementwise function and what that is of."""
TRIED = 5
"""Observations on which it is tried that no loss of one depends on another."""


@dataclass(frozen=True)
class Pointwise:
    """``steps`` to the ``value`` of the loss and its ``slope``.

    ``numbers`` are operands of which each lane has its own: fields of the loss, ``n0`` and so on for those that are ``given``, or what the
    steps that come ``first`` make of these alone.
    """

    steps: Steps
    value: Operand
    slope: Operand
    numbers: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    first: Steps = ()

    @property
    def functions(self) -> frozenset[str]:
        """The functions that steps are of."""
        return frozenset(function for _, function, _ in self.steps)


@cache
def pointwise(loss: Loss | Opened, dtype: torch.dtype) -> Pointwise | str:
    """Return a loss as steps on numbers, or why it is none. Raises `ValueError` if it mixes observations."""
    import torch

    given = loss.numbers if isinstance(loss, Opened) else ()
    one = loss.loss if isinstance(loss, Opened) else loss
    if mixes(one):
        raise ValueError(f"loss {one.kind}: pointwise mixes observations: the loss of one must not depend on another")
    # Whoever trains remembers nothing, which is what gradients are made of.
    with torch.inference_mode(False), torch.enable_grad():
        graph = graph_of(loss, list(loss.shapes((1,)).values()), dtype)
    return graph if isinstance(graph, str) else _numbers(graph, given)


def mixes(loss: Loss) -> bool:
    """Return whether the loss of an observation depends on others, which is tried on some."""
    import torch

    rng = torch.Generator().manual_seed(0)
    prediction = torch.randn(TRIED, generator=rng, dtype=torch.float64)
    observation = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
    together = loss.pointwise(prediction, observation)
    alone = [loss.pointwise(prediction[n : n + 1], observation[n : n + 1]) for n in range(TRIED)]
    fits = together.shape == (TRIED,) and all(each.shape == (1,) for each in alone)
    return not fits or not torch.allclose(together, torch.cat(alone), rtol=1e-9, atol=1e-12, equal_nan=True)


def _numbers(graph: Graph, given: tuple[str, ...]) -> Pointwise | str:
    """Return the graph of a loss of one observation as steps on numbers, without what only its derivative by the observation needs."""
    own = [f"n{n}" for n in range(len(given))]
    # What follows the inputs is what the gradient of the whole by this loss is: here there is nothing above.
    known: list[Operand] = ["p", "y", *own, 1.0, *(values[0] for values in graph.constants)]
    steps: dict[str, tuple[str, tuple[Operand, ...]]] = {}
    # What is made of a lane's numbers alone is made once, before all else.
    of_lane = {*own}
    for n, step in enumerate(graph.steps):
        if not isinstance(step, Map):
            return f"it uses {_called(step)}, which is no function of single numbers"
        inputs = tuple(known[i.array] if isinstance(i, View) else i for i in step.inputs)
        same = _same(step.name, inputs)
        if same is None:
            steps[f"t{n}"] = (step.name, inputs)
            named = {i for i in inputs if isinstance(i, str)}
            of_lane |= {f"t{n}"} if named and named <= of_lane else set()
        known.append(f"t{n}" if same is None else same)
    value, slope = known[graph.product.array], known[graph.gradients[0].array]
    needed = _needed([value, slope], steps)
    each = tuple((name, *step) for name, step in steps.items() if name in needed - of_lane)
    read = {operand for _, _, inputs in each for operand in inputs} | {value, slope}
    numbers = tuple(name for name in (*own, *steps) if name in read & of_lane)
    first = tuple((name, *step) for name, step in steps.items() if name in needed & of_lane)
    return Pointwise(each, value, slope, numbers, given, first)


def _needed(ends: Sequence[Operand], steps: Mapping[str, tuple[str, tuple[Operand, ...]]]) -> set[str]:
    """Return the names of the steps that lead to the ``ends``."""
    needed, waiting = set(), [*ends]
    while waiting:
        name = waiting.pop()
        if isinstance(name, str) and name in steps and name not in needed:
            needed.add(name)
            waiting += steps[name][1]
    return needed


def _same(function: str, inputs: Sequence[Operand]) -> Operand | None:
    """Return what a step of these inputs comes to without being taken, if anything."""
    if function == "copy" or (function in ("mul", "div") and inputs[1] == 1.0):
        return inputs[0]
    if function == "mul" and inputs[0] == 1.0:
        return inputs[1]
    return None


def _called(step: Step) -> str:
    return str(getattr(step, "operation", type(step).__name__.lower()))
