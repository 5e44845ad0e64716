"""The sets {w : A w = y} of what fits the observations A w = y of R lanes, w being [R, D]."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


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

    By Cholesky decomposition of the Gram matrix, twice, since the first leaves errors of its condition number; where rows depend on each
    other, by its eigenvectors, and a contradiction between them is settled by least squares.
    """
    rows, numbers = operator, values
    for _ in range(2):
        gram = rows @ rows.mT
        lower, failed = torch.linalg.cholesky_ex(gram)
        smallest = lower.diagonal().abs().min() / lower.diagonal().abs().max().clamp_min(1e-300)
        if int(failed) or smallest < 1e-6:
            squares, vectors = torch.linalg.eigh(gram)
            kept = squares > squares[-1].clamp_min(0) * 1e-12
            scale = torch.where(kept, squares.clamp_min(1e-300).rsqrt(), 0.0)
            return (vectors * scale).mT @ rows, (vectors * scale).mT @ numbers
        rows = torch.linalg.solve_triangular(lower, rows, upper=False)
        numbers = torch.linalg.solve_triangular(lower, numbers.unsqueeze(1), upper=False).squeeze(1)
    return rows, numbers
