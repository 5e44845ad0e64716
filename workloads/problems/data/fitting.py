"""The sets {w : A w = y} of what fits the observations A w = y of R lanes, w being [R, D]."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

APART = 64
"""How far the rows of an operator have to be from depending on each other for the quick way, in roots of the machine epsilon."""


class Fitting(ABC):
    """The set {w : A w = y} of each of R lanes."""

    @abstractmethod
    def project(self, points: Tensor) -> Tensor:
        """Return the nearest points that fit the observations [R, D]."""

    @abstractmethod
    def range_part(self, points: Tensor) -> Tensor:
        """Project onto the range of A's adjoint [R, D]."""

    @abstractmethod
    def against_observed(self, dual: Tensor) -> Tensor:
        """Return the inner products [R] of ``dual``, in the range of A's adjoint, with any points that fit."""


class EntriesFitting(Fitting):
    """Those whose observed entries, by ``mask`` [R, D], are those of ``target`` [R, D]."""

    def __init__(self, mask: Tensor, target: Tensor) -> None:
        self.mask, self.target = mask, target
        self.seen = self.mask.bool()

    def project(self, points: Tensor) -> Tensor:
        return self.target.where(self.seen, points)

    def range_part(self, points: Tensor) -> Tensor:
        return points * self.mask

    def against_observed(self, dual: Tensor) -> Tensor:
        return (dual * self.target).sum(1)


class MeasurementsFitting(Fitting):
    """Those that ``operators`` [R, N, D] map to ``values`` [R, N], held as orthonormal rows Q of the same span: Q w = b where A w = y."""

    def __init__(self, operators: Tensor, values: Tensor) -> None:
        pairs = [orthonormal_rows(a, y) for a, y in zip(operators, values, strict=True)]
        self.rows = torch.stack([rows for rows, _ in pairs])
        self.values = torch.stack([values for _, values in pairs])

    def _times(self, points: Tensor) -> Tensor:
        """Return Q w [R, N]."""
        return points @ self.rows[0].mT if len(self.rows) == 1 else torch.einsum("rnd,rd->rn", self.rows, points)

    def _back(self, values: Tensor) -> Tensor:
        """Return Q* v [R, D]."""
        return values @ self.rows[0] if len(self.rows) == 1 else torch.einsum("rnd,rn->rd", self.rows, values)

    def project(self, points: Tensor) -> Tensor:
        return points + self._back(self.values - self._times(points))

    def range_part(self, points: Tensor) -> Tensor:
        return self._back(self._times(points))

    def against_observed(self, dual: Tensor) -> Tensor:
        return (self._times(dual) * self.values).sum(1)


def orthonormal_rows(operator: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows [N, D] that are orthonormal (or zero) and span what those of ``operator`` [N, D] do, and the ``values`` [N] for them.

    By Cholesky decomposition of the Gram matrix, twice, since the first leaves errors of its condition number; where rows nearly depend on
    each other, by singular values, and a contradiction between them is settled by least squares. Rows of zeros, such as a lane has that
    measures less than those beside it, change nothing.
    """
    seen = operator.any(1)
    if not seen.any():
        return torch.zeros_like(operator), torch.zeros_like(values)
    rows, numbers = (operator, values) if seen.all() else (operator[seen], values[seen])
    rows, numbers = _of_independent(rows, numbers) or _of_any(rows, numbers)
    if len(rows) == len(operator):
        return rows, numbers
    padded = torch.zeros_like(operator), torch.zeros_like(values)
    for whole, part in zip(padded, (rows, numbers), strict=True):
        whole[: len(part)] = part
    return padded


def _of_independent(rows: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the rows and values of `orthonormal_rows`; ``None`` where rounding might show in them."""
    least = APART * torch.finfo(rows.dtype).eps ** 0.5
    for _ in range(2):
        lower, failed = torch.linalg.cholesky_ex(rows @ rows.mT)
        lengths = lower.diagonal().abs()
        if int(failed) or lengths.min() < least * lengths.max():
            return None
        rows = torch.linalg.solve_triangular(lower, rows, upper=False)
        numbers = torch.linalg.solve_triangular(lower, numbers.unsqueeze(1), upper=False).squeeze(1)
    return rows, numbers


def _of_any(rows: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows and values of `orthonormal_rows`, as many as there may be independent ones.

    As numpy's pseudo-inverse has it, a singular value that is below the rounding of the largest is zero. The Gram matrix would not do: it
    knows singular values to half of the digits alone.
    """
    left, lengths, right = torch.linalg.svd(rows.double(), full_matrices=False)
    kept = lengths > lengths[0] * (max(rows.shape) * torch.finfo(rows.dtype).eps)
    found = torch.where(kept, (left.mT @ numbers.double()) / lengths, 0.0)
    return (right * kept.unsqueeze(1)).to(rows.dtype), found.to(numbers.dtype)
