"""The convex engine: the baselines that gradient descent is compared with, solved rather than descended to.

- ``min_frobenius``: the matrix or tensor of least Frobenius norm that fits the observations, in one step.
- ``nuclear_norm``: the matrix W of least nuclear norm with A(W) = y, by Douglas-Rachford splitting (Lions and Mercier 1979; Eckstein and
  Bertsekas 1992), over-relaxed, between singular value thresholding (Cai, Candes and Shen 2010) and projection onto {W : A(W) = y},
  with a penalty that balances the two residuals. A lane is solved when it is certified: the dual point that the iteration
  carries along bounds the least norm from below, and the relative gap is at most the trial's ``tolerance``.

What a lane holds as its parameter fits the observations at every step from the first on. Where no matrix does, since measurements
contradict each other, the ones with the least sum of squared residuals take their place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.lanes import Lanes
from workloads.problems import Completion, Observations, Sensing
from workloads.spec import NuclearNorm

RELAXATION = 1.6
"""Of at most 2. Measured between 1.4 and 1.8: all within a tenth."""
CHECK_EVERY = 10
"""Steps between two certificates, each of which costs two singular value decompositions."""
BALANCE_EVERY, BALANCE_UNTIL = 50, 2000
"""Steps at which the penalty may change. It stops changing in the end, or nothing would be known of convergence."""
UNBALANCED = 2.0
MOST_CHANGE = 5.0
FIRST_PENALTY = 0.3
"""Relative to the spectral norm of the solution of least Frobenius norm."""


class ConvexEngine:
    """Solves R lanes side by side (`workloads.engines.base.Engine`). One iteration is one step."""

    name = "convex"

    def __init__(self) -> None:
        self._params: list[Tensor] | None = None
        self._set: _Fitting

    def release(self) -> None:
        """See `workloads.engines.base.Engine.release`."""
        self._params = None

    @torch.no_grad()
    def advance(self, lanes: Lanes, until_step: NDArray[np.int64], until_loss: NDArray[np.float64], limit: int) -> NDArray[np.bool_]:
        """See `workloads.engines.base.Engine.advance`. A lane also arrives when it is solved, which is noted in ``lanes.solved``."""
        if self._params is not lanes.params:
            self._set, self._params = _fitting(lanes.observations), lanes.params
        iterative = isinstance(lanes.prepared[0].spec.factorization, NuclearNorm)
        self._evaluate(lanes, np.isnan(lanes.loss))
        for _ in range(limit + 1):
            arrived = lanes.solved | (lanes.step >= until_step) | (lanes.loss <= until_loss) | ~np.isfinite(lanes.loss)
            arrived &= lanes.active
            if arrived.any() or limit == 0:
                return arrived
            if iterative:
                self._iterate(lanes, until_step)
            else:
                self._keep(lanes, self._set.project(torch.zeros_like(_flat(lanes))), lanes.active)
                lanes.step[lanes.active] += 1
                lanes.solved |= lanes.active
                self._evaluate(lanes, lanes.active)
        return arrived

    def _iterate(self, lanes: Lanes, until_step: NDArray[np.int64]) -> None:
        """One step of all active lanes."""
        shape, count = lanes.factorization.shape, len(lanes)
        (shadow,), (penalty,) = lanes.state["shadow"], lanes.state["penalty"]
        first = torch.from_numpy(lanes.step == 0).to(lanes.device)
        if bool(first.any()):
            start = self._set.project(torch.zeros_like(_flat(lanes))).view(count, *shape)
            size = torch.linalg.matrix_norm(start, 2) * FIRST_PENALTY
            penalty.copy_(penalty.where(~first, size.where(size > 0, torch.ones_like(size))))
            shadow.copy_(shadow.where(~first.view(-1, 1, 1), start))
        before = shadow.clone()
        low_rank = threshold(before, penalty)
        fitting = self._set.project((2 * low_rank - before).flatten(1)).view_as(before)
        moving = torch.from_numpy(lanes.active).to(lanes.device)
        shadow.copy_((before + RELAXATION * (fitting - low_rank)).where(moving.view(-1, 1, 1), before))
        lanes.step[lanes.active] += 1
        due = lanes.active & (lanes.step % CHECK_EVERY == 0)
        if (due | (lanes.active & ((lanes.step == 1) | (lanes.step >= until_step)))).any():
            self._keep(lanes, self._set.project(low_rank.flatten(1)), lanes.active)
            self._evaluate(lanes, lanes.active)
        if due.any():
            self._certify(lanes, before, low_rank, due)

    def _certify(self, lanes: Lanes, before: Tensor, low_rank: Tensor, due: NDArray[np.bool_]) -> None:
        """Note which of the lanes that are ``due`` are solved, and balance their penalties."""
        (shadow,), (penalty,) = lanes.state["shadow"], lanes.state["penalty"]
        # (Z - X) / penalty is a subgradient of the nuclear norm at X; its part in the range of A* is a point of the dual.
        gradient = ((before - low_rank) / penalty.view(-1, 1, 1)).flatten(1)
        dual = self._set.range_part(gradient)
        excess = torch.linalg.matrix_norm(dual.view_as(before), 2).clamp_min(1.0)
        least = self._set.against_observed(dual) / excess
        norm = torch.linalg.matrix_norm(lanes.params[0], "nuc")
        gap = ((norm - least).abs() / norm.where(norm > 0, torch.ones_like(norm))).numpy(force=True)
        tolerance = np.array([_tolerance(lanes, n) for n in range(len(lanes))])
        lanes.solved |= due & (gap <= tolerance)
        balanced = due & ~lanes.solved & (lanes.step % BALANCE_EVERY == 0) & (lanes.step <= BALANCE_UNTIL)
        if not balanced.any():
            return
        unfit = _norm(lanes.params[0].flatten(1) - low_rank.flatten(1)) / _norm(low_rank.flatten(1)).clamp_min(1e-300)
        outside = _norm(gradient - dual) / _norm(gradient).clamp_min(1e-300)
        ratio = (unfit / outside.clamp_min(1e-300)).clamp(1 / MOST_CHANGE, MOST_CHANGE)
        change = torch.from_numpy(balanced).to(ratio.device) & ((ratio > UNBALANCED) | (ratio < 1 / UNBALANCED))
        new = penalty.where(~change, penalty / ratio.sqrt())
        # The subgradient stays what it is.
        shadow.add_((shadow - low_rank) * ((new - penalty) / penalty).view(-1, 1, 1))
        penalty.copy_(new)

    def _keep(self, lanes: Lanes, solution: Tensor, which: NDArray[np.bool_]) -> None:
        where = torch.from_numpy(which).to(lanes.device).unsqueeze(1)
        _flat(lanes).copy_(solution.where(where, _flat(lanes)))

    def _evaluate(self, lanes: Lanes, which: NDArray[np.bool_]) -> None:
        """The losses of lanes."""
        if which.any():
            product = _flat(lanes)
            residual = lanes.observations.residual(product, product.new_empty(len(lanes), lanes.observations.width))
            losses = (residual.square().sum(1) * lanes.loss_scale).numpy(force=True)
            lanes.loss[which] = losses[which]


def _flat(lanes: Lanes) -> Tensor:
    return lanes.params[0].flatten(1)


def _norm(rows: Tensor) -> Tensor:
    return rows.square().sum(1).sqrt()


def _tolerance(lanes: Lanes, lane: int) -> float:
    factorization = lanes.prepared[lane].spec.factorization
    return factorization.tolerance if isinstance(factorization, NuclearNorm) else 0.0


def threshold(matrices: Tensor, by: Tensor) -> Tensor:
    """Singular values of ``matrices`` [R, m, n] lowered by ``by`` [R], those below it to zero (Cai, Candes and Shen 2010, theorem 2.1).

    From the eigenvectors of the smaller Gram matrix, a fifth of the time of a singular value decomposition. Squaring costs half of the
    digits of singular values that are small against the largest; those lie below the threshold.
    """
    wide = matrices.shape[1] < matrices.shape[2]
    tall = matrices.mT if wide else matrices
    squares, vectors = torch.linalg.eigh(tall.mT @ tall)
    values = squares.clamp_min(0).sqrt()
    kept = (1 - by.unsqueeze(1) / values.clamp_min(1e-300)).clamp_min(0)
    lowered: Tensor = tall @ ((vectors * kept.unsqueeze(1)) @ vectors.mT)
    return lowered.mT if wide else lowered


class _Fitting(ABC):
    """The set {w : A w = y} of R lanes, w being [R, D]."""

    @abstractmethod
    def project(self, points: Tensor) -> Tensor:
        """The nearest points that fit the observations [R, D]."""

    @abstractmethod
    def range_part(self, points: Tensor) -> Tensor:
        """Projection onto the range of A's adjoint [R, D]."""

    @abstractmethod
    def against_observed(self, dual: Tensor) -> Tensor:
        """Inner products [R] of ``dual``, in the range of A's adjoint, with any points that fit."""


class _Entries(_Fitting):
    def __init__(self, observations: Completion) -> None:
        self.mask, self.target = observations.mask, observations.target
        self.seen = self.mask.bool()

    def project(self, points: Tensor) -> Tensor:
        return self.target.where(self.seen, points)

    def range_part(self, points: Tensor) -> Tensor:
        return points * self.mask

    def against_observed(self, dual: Tensor) -> Tensor:
        return (dual * self.target).sum(1)


class _Measurements(_Fitting):
    """Measurements with orthonormal rows Q that span the same space: Q w = b where A w = y."""

    def __init__(self, observations: Sensing) -> None:
        pairs = [orthonormal_rows(a, y) for a, y in zip(observations.operators, observations.values, strict=True)]
        self.rows = torch.stack([rows for rows, _ in pairs])
        self.values = torch.stack([values for _, values in pairs])

    def _times(self, points: Tensor) -> Tensor:
        """Q w [R, N]."""
        return points @ self.rows[0].mT if len(self.rows) == 1 else torch.einsum("rnd,rd->rn", self.rows, points)

    def _back(self, values: Tensor) -> Tensor:
        """Q* v [R, D]."""
        return values @ self.rows[0] if len(self.rows) == 1 else torch.einsum("rnd,rn->rd", self.rows, values)

    def project(self, points: Tensor) -> Tensor:
        return points + self._back(self.values - self._times(points))

    def range_part(self, points: Tensor) -> Tensor:
        return self._back(self._times(points))

    def against_observed(self, dual: Tensor) -> Tensor:
        return (self._times(dual) * self.values).sum(1)


def orthonormal_rows(operator: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [N, D] that are orthonormal (or zero) and span what those of ``operator`` [N, D] do, and the ``values`` [N] for them.

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


def _fitting(observations: Observations) -> _Fitting:
    if isinstance(observations, Completion):
        return _Entries(observations)
    assert isinstance(observations, Sensing)
    return _Measurements(observations)
