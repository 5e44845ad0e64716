"""What R lanes observe of their problems: linear maps of the end-to-end matrices or tensors.

``residual`` maps [R, D] to [R, N] (D entries, N observations), ``adjoint`` maps back.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from typing import Self

import numpy as np
import torch
from torch import Tensor

from workloads.problems.data.fitting import EntriesFitting, Fitting, MeasurementsFitting
from workloads.problems.data.realized import ProblemData, unique


class Observations(ABC):
    """What R lanes observe. Built for one set of lanes; rebuilt when lanes leave or join.

    ``predict(product, out)`` gives the predictions [R, N], of which any number stands where a lane observes nothing, and
    ``residual(product, out)`` the prediction errors, zero there; ``adjoint(residual, out)`` maps them back to [R, D]. Where all lanes
    share one problem its arrays are held once.
    """

    width: int
    """N: columns of the residual."""
    size: int
    """D: columns of the product."""
    in_place: bool
    """True where the residual is its own adjoint."""
    inputs: Tensor | None = None
    """What a function is evaluated for [R, B, D], where one is looked for: the product is then its values."""

    @abstractmethod
    def predict(self, product: Tensor, out: Tensor) -> Tensor: ...

    @abstractmethod
    def residual(self, product: Tensor, out: Tensor) -> Tensor: ...

    @abstractmethod
    def adjoint(self, residual: Tensor, out: Tensor) -> Tensor: ...

    @property
    @abstractmethod
    def seen(self) -> Tensor:
        """Which columns of the residual are observations [R or 1, N] bool."""

    @property
    def drawn(self) -> Tensor:
        """Which of what mini-batches are drawn from a lane has [R or 1, N] bool: observations, or inputs."""
        return self.seen

    @abstractmethod
    def part(self, lanes: slice) -> Self:
        """Return the observations of some of the lanes: views."""

    def show(self, chosen: Tensor) -> None:
        """Make the inputs those that are ``chosen`` [R, B] of each lane."""
        raise NotImplementedError(f"{type(self).__name__} has no inputs")

    @abstractmethod
    def observed(self) -> Tensor:
        """Return what is observed now [R or 1, N], any number where a lane observes nothing; it may change as inputs do."""

    def tables(self) -> tuple[Tensor, Tensor]:
        """Return the observed values [R, N], and the masks [R, D] or the flat operators [R, N * D]; one row where all lanes share it."""
        raise NotImplementedError(f"{type(self).__name__} is no linear map of a product")

    def fitting(self) -> Fitting:
        """Return the sets of what fits the observations."""
        raise NotImplementedError(f"{type(self).__name__} is no linear map of a product")


class ObservedEntries(Observations):
    """Entries are observed: the residual is masked and keeps its place, so that the adjoint is the identity."""

    in_place = True

    def __init__(self, problems: Sequence[ProblemData], dtype: torch.dtype, device: torch.device) -> None:
        distinct, which = unique(problems)
        masks = np.stack([p.mask for p in distinct if p.mask is not None])
        targets = np.stack([p.target for p in distinct if p.target is not None])
        if len(distinct) > 1:
            masks, targets = masks[which], targets[which]
        self.mask = torch.from_numpy(masks).to(device, dtype)
        self.target = torch.from_numpy(targets).to(device, dtype)
        self.width = self.size = self.mask.shape[1]

    def predict(self, product: Tensor, out: Tensor) -> Tensor:
        return out.copy_(product)

    def residual(self, product: Tensor, out: Tensor) -> Tensor:
        torch.sub(product, self.target, out=out)
        return out.mul_(self.mask)

    def adjoint(self, residual: Tensor, out: Tensor) -> Tensor:
        return residual

    @property
    def seen(self) -> Tensor:
        return self.mask.bool()

    def part(self, lanes: slice) -> Self:
        some = copy(self)
        if len(self.mask) > 1:
            some.mask, some.target = self.mask[lanes], self.target[lanes]
        return some

    def observed(self) -> Tensor:
        return self.target

    def tables(self) -> tuple[Tensor, Tensor]:
        return self.target, self.mask

    def fitting(self) -> Fitting:
        return EntriesFitting(self.mask, self.target)


class Measured(Observations):
    """Inner products with measurement matrices or tensors are observed."""

    in_place = False

    def __init__(self, problems: Sequence[ProblemData], dtype: torch.dtype, device: torch.device) -> None:
        distinct, which = unique(problems)
        self.width = max(p.count for p in distinct)
        self.size = math.prod(distinct[0].shape)
        operators = np.zeros((len(distinct), self.width, self.size))
        values = np.zeros((len(distinct), self.width))
        for place, problem in enumerate(distinct):
            assert problem.measurements is not None
            assert problem.values is not None
            operators[place, : problem.count], values[place, : problem.count] = problem.measurements, problem.values
        self.shared = len(distinct) == 1
        self.counts = torch.tensor([p.count for p in distinct], device=device)
        self.operators = torch.from_numpy(operators).to(device, dtype)
        self.values = torch.from_numpy(values).to(device, dtype)
        if not self.shared:
            self.operators, self.values, self.counts = self.operators[which], self.values[which], self.counts[which]

    def predict(self, product: Tensor, out: Tensor) -> Tensor:
        if self.shared:
            return torch.mm(product, self.operators[0].mT, out=out)
        torch.bmm(self.operators, product.unsqueeze(2), out=out.unsqueeze(2))
        return out

    def residual(self, product: Tensor, out: Tensor) -> Tensor:
        return self.predict(product, out).sub_(self.values)

    def adjoint(self, residual: Tensor, out: Tensor) -> Tensor:
        if self.shared:
            return torch.mm(residual, self.operators[0], out=out)
        torch.bmm(residual.unsqueeze(1), self.operators, out=out.unsqueeze(1))
        return out

    @property
    def seen(self) -> Tensor:
        return torch.arange(self.width, device=self.counts.device) < self.counts.unsqueeze(1)

    def part(self, lanes: slice) -> Self:
        some = copy(self)
        if not self.shared:
            some.operators, some.values, some.counts = self.operators[lanes], self.values[lanes], self.counts[lanes]
        return some

    def observed(self) -> Tensor:
        return self.values

    def tables(self) -> tuple[Tensor, Tensor]:
        return self.values, self.operators.flatten(1)

    def fitting(self) -> Fitting:
        return MeasurementsFitting(self.operators, self.values)
