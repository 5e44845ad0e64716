"""Ranks, numerical and continuous."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from workloads.measures.base import matrix, measure, tensor
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.measures.numerics.snapshot import Snapshot


def entropy_rank(singular_values: Tensor) -> Tensor:
    """Return exp of the entropy of the singular values [R, k] divided by their sum (Roy and Vetterli 2007) [R]; 0 for the zero matrix."""
    total = singular_values.sum(1, keepdim=True)
    share = singular_values / total.where(total > 0, total.new_ones(()))
    return (-share.xlogy(share).sum(1)).exp().where(total[:, 0] != 0, total.new_zeros(()))


@measure("effective rank (Roy & Vetterli 2007)", needs=matrix)
def effective_rank(x: Snapshot) -> Tensor:
    """Effective rank [R] (Roy and Vetterli 2007)."""
    return entropy_rank(x.singular_values)


@measure("‖W‖_F² / ‖W‖₂²", needs=matrix)
def stable_rank(x: Snapshot) -> Tensor:
    """Stable rank [R]: ||W||_F^2 / ||W||_2^2; 0 for the zero matrix."""
    top = x.singular_values[:, :1]
    return (x.singular_values / top.where(top > 0, top.new_ones(()))).square().sum(1)


@measure("numerical rank", needs=matrix)
def rank(x: Snapshot) -> Tensor:
    """Numerical rank [R]: singular values above max(m, n) * machine epsilon (of the trial's dtype) * the largest."""
    s = x.singular_values
    count = (s > s[:, :1] * (max(x.product.shape[1:]) * x.epsilon)).to(s.dtype).sum(1)
    return count.where(s.isfinite().all(1), s.new_full((), float("nan")))


def _unfolding_columns(spec: TrialSpec) -> list[str]:
    return [f"unfolding_effective_rank_{k}" for k in range(len(spec.shape))]


@measure(
    "effective ranks of the unfoldings: columns unfolding_effective_rank_0, …",
    needs=tensor,
    columns=_unfolding_columns,
)
def unfolding_effective_rank(x: Snapshot) -> Tensor:
    """Effective rank of every mode-n unfolding [R, N]."""
    return x.unfolding_ranks(entropy_rank)


def _multilinear_columns(spec: TrialSpec) -> list[str]:
    return [f"multilinear_rank_{k}" for k in range(len(spec.shape))]


@measure("numerical ranks of the unfoldings: columns multilinear_rank_0, …", needs=tensor, columns=_multilinear_columns)
def multilinear_rank(x: Snapshot) -> Tensor:
    """Numerical rank of every mode-n unfolding [R, N]: singular values above max(m, n) * machine epsilon * the largest."""
    shape = x.product.shape[1:]
    size = max(math.prod(shape) // n for n in shape)

    def count(s: Tensor) -> Tensor:
        found: Tensor = (s > s[:, :1] * (max(size, *shape) * x.epsilon)).to(s.dtype).sum(1)
        return found.where(s.isfinite().all(1), s.new_full((), float("nan")))

    return x.unfolding_ranks(count)


@measure(
    "least number of components of a CP decomposition with a mean squared error under 1e-6; at the end of a trial only",
    needs=tensor,
    final=True,
)
def cp_rank(x: Snapshot) -> Tensor:
    """CP rank [R]: the least r whose rank-r decomposition by alternating least squares has a mean squared error under 1e-6.

    As in the experiments of arXiv 2102.09972 (`workloads.measures.numerics.cp_rank`).
    """
    from workloads.measures.numerics.cp_rank import cp_rank as search

    return search(x.product)
