"""Least norms by Douglas-Rachford splitting: nuclear ones of matrices, and l1 norms of vectors.

The W of least norm with A(W) = y (Lions and Mercier 1979; Eckstein and Bertsekas 1992): over-relaxed steps between thresholding, of
singular values (Cai, Candes and Shen 2010) or entries, and projection onto {W : A(W) = y}, with a penalty that balances the two residuals.
A lane is solved when it is certified: the dual point that the iteration carries along bounds the least norm from below, and the relative
gap is at most the trial's tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.problems.data.fitting import Fitting

RELAXATION = 1.6
"""Of at most 2. Measured between 1.4 and 1.8: all within a tenth."""
CHECK_EVERY = 10
"""Steps between two certificates, each of which costs two singular value decompositions."""
BALANCE_EVERY, BALANCE_UNTIL = 50, 2000
"""Steps at which the penalty may change. It stops changing in the end, or nothing would be known of convergence."""
UNBALANCED = 2.0
MOST_CHANGE = 5.0
FIRST_PENALTY = 0.3
"""Relative to the dual norm of the solution of least Frobenius norm."""


@dataclass(frozen=True)
class Norm:
    """A norm of lanes [R, *shape] -> [R], its dual norm, and its proximal operator, which lowers them by some number [R] each."""

    size: Callable[[Tensor], Tensor]
    dual: Callable[[Tensor], Tensor]
    lowered: Callable[[Tensor, Tensor], Tensor]


class DouglasRachford:
    """See `workloads.factorizations.base.Solver`. ``tolerances`` [R] are duality gaps; ``state`` has ``shadow`` and ``penalty``."""

    def __init__(
        self,
        norm: Norm,
        tolerances: Sequence[float],
        shape: tuple[int, ...],
        fitting: Fitting,
        state: Mapping[str, list[Tensor]],
        like: Tensor,
    ) -> None:
        self._norm, self._tolerances, self._shape, self._fitting = norm, np.array(tolerances), shape, fitting
        (self._shadow,), (self._penalty,) = state["shadow"], state["penalty"]
        self._like = like

    def step(self, done: NDArray[np.int64], active: NDArray[np.bool_], until: NDArray[np.int64]) -> tuple[Tensor | None, NDArray[np.bool_]]:
        shadow, penalty = self._shadow, self._penalty
        self._start(torch.from_numpy(done == 0).to(shadow.device))
        before = shadow.clone()
        lowered = self._norm.lowered(before, penalty)
        fitting = self._fitting.project((2 * lowered - before).flatten(1)).view_as(before)
        moving = torch.from_numpy(active).to(shadow.device)
        shadow.copy_((before + RELAXATION * (fitting - lowered)).where(_beside(moving, before), before))
        done = done + active
        due = active & (done % CHECK_EVERY == 0)
        solved = np.zeros_like(active)
        if not (due | (active & ((done == 1) | (done >= until)))).any():
            return None, solved
        solution = self._fitting.project(lowered.flatten(1))
        if due.any():
            solved = self._certify(before, lowered, solution, due, done)
        return solution, solved

    def _start(self, first: Tensor) -> None:
        """Set those lanes that have taken no step to the solution of least Frobenius norm."""
        if not bool(first.any()):
            return
        shadow, penalty = self._shadow, self._penalty
        start = self._fitting.project(torch.zeros_like(self._like)).view(-1, *self._shape)
        size = self._norm.dual(start) * FIRST_PENALTY
        penalty.copy_(penalty.where(~first, size.where(size > 0, torch.ones_like(size))))
        shadow.copy_(shadow.where(~_beside(first, start), start))

    def _certify(
        self, before: Tensor, lowered: Tensor, solution: Tensor, due: NDArray[np.bool_], done: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return which of the lanes that are ``due`` are solved, and balance the penalties of the others."""
        shadow, penalty = self._shadow, self._penalty
        # (Z - X) / penalty is a subgradient of the norm at X; its part in the range of A* is a point of the dual.
        gradient = ((before - lowered) / _beside(penalty, before)).flatten(1)
        dual = self._fitting.range_part(gradient)
        excess = self._norm.dual(dual.view_as(before)).clamp_min(1.0)
        least = self._fitting.against_observed(dual) / excess
        norm = self._norm.size(solution.view_as(before))
        gap = ((norm - least).abs() / norm.where(norm > 0, torch.ones_like(norm))).numpy(force=True)
        solved: NDArray[np.bool_] = due & (gap <= self._tolerances)
        balanced = due & ~solved & (done % BALANCE_EVERY == 0) & (done <= BALANCE_UNTIL)
        if not balanced.any():
            return solved
        unfit = _norm(solution - lowered.flatten(1)) / _norm(lowered.flatten(1)).clamp_min(1e-300)
        outside = _norm(gradient - dual) / _norm(gradient).clamp_min(1e-300)
        ratio = (unfit / outside.clamp_min(1e-300)).clamp(1 / MOST_CHANGE, MOST_CHANGE)
        change = torch.from_numpy(balanced).to(ratio.device) & ((ratio > UNBALANCED) | (ratio < 1 / UNBALANCED))
        new = penalty.where(~change, penalty / ratio.sqrt())
        # The subgradient stays what it is.
        shadow.add_((shadow - lowered) * _beside((new - penalty) / penalty, shadow))
        penalty.copy_(new)
        return solved


def _beside(numbers: Tensor, lanes: Tensor) -> Tensor:
    """Return ``numbers`` [R] with as many axes as ``lanes`` [R, *shape] have."""
    return numbers.view(-1, *(1,) * (lanes.dim() - 1))


def _norm(rows: Tensor) -> Tensor:
    return rows.square().sum(1).sqrt()


def threshold(matrices: Tensor, by: Tensor) -> Tensor:
    """Return ``matrices`` [R, m, n] with their singular values lowered by ``by`` [R], to zero at least.

    Cai, Candes and Shen 2010, theorem 2.1.

    From the eigenvectors of the smaller Gram matrix, a fifth of the time of a singular value decomposition. Squaring costs half of the
    digits of singular values that are small against the largest; those lie below the threshold.
    """
    wide = matrices.shape[1] < matrices.shape[2]
    tall = matrices.mT if wide else matrices
    squares, vectors = torch.linalg.eigh(tall.mT @ tall)
    values = squares.clamp_min(0).sqrt()
    kept = (1 - by.unsqueeze(1) / values.clamp_min(1e-300)).clamp_min(0)
    made: Tensor = tall @ ((vectors * kept.unsqueeze(1)) @ vectors.mT)
    return made.mT if wide else made


def soft_threshold(vectors: Tensor, by: Tensor) -> Tensor:
    """Return ``vectors`` [R, D] with the magnitudes of their entries lowered by ``by`` [R], to zero at least (Donoho 1995)."""
    return vectors.sign() * (vectors.abs() - by.unsqueeze(1)).clamp_min(0)


NUCLEAR = Norm(lambda w: torch.linalg.matrix_norm(w, "nuc"), lambda w: torch.linalg.matrix_norm(w, 2), threshold)
L1 = Norm(lambda w: w.abs().sum(1), lambda w: w.abs().amax(1), soft_threshold)
