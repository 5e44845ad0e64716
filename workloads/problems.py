"""Problems: the ground truth and what is observed of it.

`realize` turns a problem's spec into arrays, on the CPU and in float64. `Observations` holds them for R lanes and is linear in the
end-to-end matrix or tensor: ``residual`` maps [R, D] to [R, N] (D entries, N observations), ``adjoint`` maps back.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.data import read_problem
from workloads.rng import Stream, generator
from workloads.spec import MatrixCompletion, Problem, Target

SHARED_MEASUREMENTS = 1 << 20
"""Measurement arrays from this many bytes on are held once for all lanes, never copied per lane."""


@dataclass(frozen=True, eq=False)
class ProblemData:
    """A problem with its numbers. Completion has ``mask`` and ``target``; sensing has ``measurements`` and ``values``.

    ``truth`` [D] is the ground truth, or ``None`` where only observations are known; ``mask`` [D] tells which entries are observed and
    ``target`` [D] holds their values (zero elsewhere); ``measurements`` [N, D] and ``values`` [N] are the sensing operator and what it saw.
    """

    shape: tuple[int, ...]
    count: int
    truth: NDArray[np.float64] | None
    mask: NDArray[np.bool_] | None = None
    target: NDArray[np.float64] | None = None
    measurements: NDArray[np.float64] | None = None
    values: NDArray[np.float64] | None = None


def draw_truth(target: Target, shape: tuple[int, ...], seed: int) -> NDArray[np.float64]:
    """A sum of ``rank`` outer products of standard normal vectors [*shape], scaled to the Frobenius norm asked for."""
    rng = generator(seed, Stream.TRUTH)
    factors = [rng.standard_normal((n, target.rank)) for n in shape]
    truth = factors[0]
    for factor in factors[1:]:
        truth = truth[..., None, :] * factor
    total: NDArray[np.float64] = truth.sum(-1)
    return total * (target.frobenius / np.linalg.norm(total))


def realize(problem: Problem, files: Mapping[str, bytes]) -> ProblemData:
    """The arrays of ``problem``; ``files`` maps SHA-256 digests to the content of data files.

    Completion observes the first ``observed`` entries of one seeded permutation, so that a larger count contains the smaller; sensing
    draws its standard normal measurements one after another, to the same effect. Raises `workloads.data.DataError` for a bad file.
    """
    shape = problem.shape
    if shape is None:
        raise ValueError("the shape is filled in when the data file is read")
    size = math.prod(shape)
    truth = indices = values = measurements = None
    if problem.file is not None:
        file = read_problem(problem.file.path, files[problem.file.digest], shape, problem.sensing)
        truth, indices, values, measurements = file.truth, file.indices, file.values, file.measurements
    elif problem.target is not None:
        truth = draw_truth(problem.target, shape, problem.seed)
    elif isinstance(problem, MatrixCompletion) and problem.entries is not None:
        table = np.array(problem.entries, dtype=np.float64)
        indices, values = table[:, :-1].astype(np.int64), table[:, -1]
    flat = None if truth is None else truth.reshape(size)
    if problem.sensing:
        return _sensing(problem, shape, flat, measurements, values)
    if indices is not None:
        where = np.ravel_multi_index(tuple(indices.T), shape)
    else:
        order = generator(problem.seed, Stream.OBSERVED).permutation(size)
        where = order[: problem.observations()]
    if values is None:
        assert flat is not None, "observed entries without values need a ground truth"
        values = flat[where]
    mask = np.zeros(size, dtype=np.bool_)
    target = np.zeros(size)
    mask[where], target[where] = True, values
    if flat is None and mask.all():
        flat = target
    return ProblemData(shape, len(where), flat, mask=mask, target=target)


def _sensing(
    problem: Problem,
    shape: tuple[int, ...],
    truth: NDArray[np.float64] | None,
    measurements: NDArray[np.float64] | None,
    values: NDArray[np.float64] | None,
) -> ProblemData:
    size = math.prod(shape)
    if measurements is None:
        count = problem.observations()
        assert count is not None, "a drawn sensing problem says how many measurements it has"
        measurements = generator(problem.seed, Stream.MEASUREMENTS).standard_normal((count, size))
    measurements = measurements.reshape(-1, size)
    if values is None:
        assert truth is not None, "measurements without values need a ground truth"
        values = measurements @ truth
    return ProblemData(shape, len(values), truth, measurements=measurements, values=values)


def unique(problems: Sequence[ProblemData]) -> tuple[list[ProblemData], list[int]]:
    """The distinct objects among ``problems`` and, for each lane, which of them is its own."""
    places: dict[int, int] = {}
    distinct: list[ProblemData] = []
    which = []
    for problem in problems:
        if id(problem) not in places:
            places[id(problem)] = len(distinct)
            distinct.append(problem)
        which.append(places[id(problem)])
    return distinct, which


class Observations(ABC):
    """What R lanes observe. Built for one set of lanes; rebuilt when lanes leave or join.

    ``residual(product, out)`` gives the prediction errors [R, N], zero where a lane has fewer than N; ``adjoint(residual, out)`` maps
    them back to [R, D]. Where all lanes share one problem its arrays are held once.
    """

    width: int
    """N: columns of the residual."""
    in_place: bool
    """Whether the residual is its own adjoint."""

    @abstractmethod
    def residual(self, product: Tensor, out: Tensor) -> Tensor: ...

    @abstractmethod
    def adjoint(self, residual: Tensor, out: Tensor) -> Tensor: ...

    @abstractmethod
    def part(self, lanes: slice) -> Self:
        """The observations of some of the lanes: views."""


class Completion(Observations):
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
        self.width = self.mask.shape[1]

    def residual(self, product: Tensor, out: Tensor) -> Tensor:
        torch.sub(product, self.target, out=out)
        return out.mul_(self.mask)

    def adjoint(self, residual: Tensor, out: Tensor) -> Tensor:  # noqa: ARG002
        return residual

    def part(self, lanes: slice) -> Self:
        some = copy(self)
        if len(self.mask) > 1:
            some.mask, some.target = self.mask[lanes], self.target[lanes]
        return some


class Sensing(Observations):
    """Inner products with measurement matrices or tensors are observed."""

    in_place = False

    def __init__(self, problems: Sequence[ProblemData], dtype: torch.dtype, device: torch.device) -> None:
        distinct, which = unique(problems)
        self.width = max(p.count for p in distinct)
        size = math.prod(distinct[0].shape)
        operators = np.zeros((len(distinct), self.width, size))
        values = np.zeros((len(distinct), self.width))
        for place, problem in enumerate(distinct):
            assert problem.measurements is not None
            assert problem.values is not None
            operators[place, : problem.count], values[place, : problem.count] = problem.measurements, problem.values
        self.shared = len(distinct) == 1
        self.operators = torch.from_numpy(operators).to(device, dtype)
        self.values = torch.from_numpy(values).to(device, dtype)
        if not self.shared:
            self.operators, self.values = self.operators[which], self.values[which]

    def residual(self, product: Tensor, out: Tensor) -> Tensor:
        if self.shared:
            torch.mm(product, self.operators[0].mT, out=out)
        else:
            torch.bmm(self.operators, product.unsqueeze(2), out=out.unsqueeze(2))
        return out.sub_(self.values)

    def adjoint(self, residual: Tensor, out: Tensor) -> Tensor:
        if self.shared:
            return torch.mm(residual, self.operators[0], out=out)
        torch.bmm(residual.unsqueeze(1), self.operators, out=out.unsqueeze(1))
        return out

    def part(self, lanes: slice) -> Self:
        some = copy(self)
        if not self.shared:
            some.operators, some.values = self.operators[lanes], self.values[lanes]
        return some


def observe(problems: Sequence[ProblemData], dtype: torch.dtype, device: torch.device) -> Observations:
    """The observations of R lanes, one problem each; all complete or all sense."""
    kind = Sensing if problems[0].measurements is not None else Completion
    return kind(problems, dtype, device)
