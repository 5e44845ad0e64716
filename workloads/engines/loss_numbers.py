"""What lanes have of their own in their losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workloads.engines.pointwise import Operand, Pointwise, pointwise
from workloads.factorizations.graphs.opened import Opened
from workloads.factorizations.programs.maps import BOOLEAN, mapped
from workloads.trial import TrialSpec


def loss_numbers(specs: Sequence[TrialSpec], dtype: torch.dtype) -> Tensor:
    """Return the numbers [R, K] in the order of `Pointwise.numbers`, on the CPU; none where all lanes have one loss.

    What is computed of a lane's numbers is, as in Python, in float64, and rounded once. Raises `ValueError` for lanes that are none of one
    program.
    """
    first = specs[0].open_loss
    if not isinstance(first, Opened):
        return torch.empty(len(specs), 0, dtype=dtype)
    losses = [Opened(spec.loss, first.numbers) for spec in specs]
    if len({one.structure for one in losses}) > 1:
        raise ValueError(f"lanes of loss {first.loss.kind} differ in more than {' and '.join(first.numbers)}")
    found = pointwise(first, dtype)
    assert isinstance(found, Pointwise), "what is opened has been traced"
    given = [tuple(getattr(one.loss, name) for name in first.numbers) for one in losses]
    # One after another: of several PyTorch may compute the last ones by another function.
    known = {numbers: _computed(found, numbers) for numbers in dict.fromkeys(given)}
    return torch.tensor([known[numbers] for numbers in given], dtype=torch.float64).to(dtype)


def _computed(loss: Pointwise, given: Sequence[float]) -> list[float]:
    """Return one lane's numbers."""
    known = {f"n{place}": torch.tensor(value, dtype=torch.float64) for place, value in enumerate(given)}

    def of(operand: Operand) -> Tensor:
        return known[operand] if isinstance(operand, str) else torch.tensor(operand, dtype=torch.float64)

    for name, function, inputs in loss.first:
        known[name] = torch.empty((), dtype=torch.bool if function in BOOLEAN else torch.float64)
        calls = mapped(function, [of(i) for i in inputs], known[name], torch.float64, lambda like, kind: like.new_empty((), dtype=kind))
        for operation in calls:
            operation()
    return [float(known[name]) for name in loss.numbers]
