"""How the batched engine comes from products to losses, and to what the gradient is made of: lanes side by side, every buffer made once."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from workloads.engines.pointwise import Operand, Pointwise, pointwise
from workloads.factorizations.graphs.opened import Opened
from workloads.factorizations.programs.maps import BOOLEAN, Operation, mapped
from workloads.factorizations.programs.room import room
from workloads.losses import Loss
from workloads.problems.data.observations import Observations


class Fit(Protocol):
    """What R lanes' products are to their observations.

    ``slope`` [R, N], times ``factor`` [R, 1] where there is one, is the loss's derivative by the predictions, zero where nothing is
    observed. ``replayed`` says whether a graph of a GPU can replay it.
    """

    slope: Tensor
    factor: Tensor | None
    replayed: bool

    def forward(self, product: Tensor, total: Tensor) -> None:
        """Bring the slope up to date with products [R, D], and ``total`` [R, 1, 1]: the losses, but for their scale."""

    def disturb(self, noise: Tensor) -> None:
        """Make the slope that of observations with ``noise`` [R, N]."""


def fit(loss: Loss | Opened, observations: Observations, scale: Tensor, numbers: Tensor, like: Tensor) -> Fit:
    """Return what lanes of a ``loss`` need: of sums over observations times ``scale`` [R], with ``numbers`` [R, K] of their own; ``like``
    is a parameter [R, ...]."""
    if isinstance(loss, Loss) and loss.squares is not None:
        return Squares(observations, scale, like)
    return Losses(loss, observations, scale, numbers, like)


class _Total:
    """Dot products of rows [R, N]. Batched: unlike sums over the last axis they give a lane the same bits whatever the number of lanes."""

    def __init__(self, left: Tensor, right: Tensor, count: int) -> None:
        # A lone lane has a double, of zeros: of a single product PyTorch may make another one than of several.
        self._pair = (left.unsqueeze(1), right.unsqueeze(2))
        self._lone = left.new_empty(2, 1, 1) if count == 1 else None

    def into(self, total: Tensor) -> None:
        torch.bmm(*self._pair, out=total if self._lone is None else self._lone)
        if self._lone is not None:
            total.copy_(self._lone[:1])


class Squares:
    """See `Fit`: of multiples of the sum of squares the slope is twice the residual."""

    replayed = True

    def __init__(self, observations: Observations, scale: Tensor, like: Tensor) -> None:
        residuals = room(max(2, len(scale)), (observations.width,), like)
        self._observations, self._total = observations, _Total(residuals, residuals, len(scale))
        self.slope = residuals[: len(scale)]
        self.factor = (2 * scale).unsqueeze(1) if bool((scale != 0.5).any()) else None

    def forward(self, product: Tensor, total: Tensor) -> None:
        self._observations.residual(product, self.slope)
        self._total.into(total)

    def disturb(self, noise: Tensor) -> None:
        self.slope.sub_(noise)


class Losses:
    """See `Fit`: of a loss that is any function of prediction and observation."""

    def __init__(self, loss: Loss | Opened, observations: Observations, scale: Tensor, numbers: Tensor, like: Tensor) -> None:
        count, width = len(scale), observations.width
        self._observations = observations
        self._prediction, self._observed, self.slope = (room(count, (width,), like) for _ in range(3))
        self._observed[:] = observations.observed()
        # What changes is shown anew in each step; what noise is added to is kept as it was.
        self._plain = self._observed.clone() if observations.inputs is None else None
        totals, ones = (room(max(2, count), (width,), like) for _ in range(2))
        ones[:] = 1.0
        self._total = _Total(totals, ones, count)
        unseen = (~observations.seen).expand(count, -1)
        self.factor = scale.unsqueeze(1) if bool((scale != 1.0).any()) else None
        values, slopes = totals[:count], self.slope
        found = pointwise(loss, like.dtype)
        self.replayed = not isinstance(found, str)
        if isinstance(found, str):
            assert isinstance(loss, Loss), "what is opened has been traced"
            self._operations: list[Operation] = [partial(_one_by_one, loss, self._prediction, self._observed, ~unseen, values, slopes)]
        else:
            own = (column.unsqueeze(1) for column in numbers.unbind(1))
            known = {"p": self._prediction, "y": self._observed, **dict(zip(found.numbers, own, strict=True))}
            self._operations = _operations(found, known, values, slopes)
        # Where nothing is observed there may be no number.
        self._operations += [partial(values.masked_fill_, unseen, 0.0), partial(slopes.masked_fill_, unseen, 0.0)]

    def forward(self, product: Tensor, total: Tensor) -> None:
        self._observations.predict(product, self._prediction)
        if self._plain is None:
            self._observed.copy_(self._observations.observed())
        self._take()
        self._total.into(total)

    def disturb(self, noise: Tensor) -> None:
        assert self._plain is not None, "there is no noise on what a function is shown"
        torch.add(self._plain, noise, out=self._observed)
        self._take()
        self._observed.copy_(self._plain)

    def _take(self) -> None:
        for operation in self._operations:
            operation()


def _operations(steps: Pointwise, known: dict[str, Tensor], values: Tensor, slopes: Tensor) -> list[Operation]:
    """Return the calls that take the ``steps`` of a loss from what is ``known``, into ``values`` and ``slopes``, all [R, N], or [R, 1]."""
    prediction = known["p"]
    operations: list[Operation] = []

    def made(like: Tensor, dtype: torch.dtype) -> Tensor:
        return room(len(like), like.shape[1:], prediction, dtype)

    def of(operand: Operand) -> Tensor:
        return known[operand] if isinstance(operand, str) else prediction.new_tensor(operand)

    for name, function, inputs in steps.steps:
        # Both may be asked for by one name.
        ends = [out for end, out in ((steps.value, values), (steps.slope, slopes)) if end == name and function not in BOOLEAN]
        known[name] = ends[0] if ends else made(prediction, torch.bool if function in BOOLEAN else prediction.dtype)
        given = [of(i) for i in inputs]
        if function == "pow":
            # Where it is repeated along the way PyTorch may compute it by another function, with other bits.
            given = [made(prediction, g.dtype).copy_(g) if g.dim() and g.shape != prediction.shape else g for g in given]
        operations += mapped(function, given, known[name], prediction.dtype, made)
    for end, out in ((steps.value, values), (steps.slope, slopes)):
        if of(end) is not out:
            operations.append(partial(out.copy_, of(end)))
    return operations


def _one_by_one(loss: Loss, prediction: Tensor, observed: Tensor, seen: Tensor, values: Tensor, slopes: Tensor) -> None:
    """Fill ``values`` and ``slopes`` [R, N] with those of a loss that cannot be traced, lane after lane."""
    for lane in range(len(prediction)):
        where = seen[lane]
        with torch.enable_grad():
            leaf = prediction[lane][where].detach().requires_grad_()
            each = loss.pointwise(leaf, observed[lane][where])
            (slope,) = torch.autograd.grad(each.sum(), [leaf])
        values[lane, where], slopes[lane, where] = each.detach(), slope
