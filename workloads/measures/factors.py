"""The factors themselves, rather than their product."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from workloads.measures.base import MOST_COLUMNS, measure
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.measures.numerics.snapshot import Snapshot


def _norm_columns(spec: TrialSpec) -> list[str]:
    return [f"norm_{name}" for name in spec.factor_shapes]


@measure("Frobenius norm of each factor: columns norm_W1, …", columns=_norm_columns, product=False)
def factor_norms(x: Snapshot) -> Tensor:
    """Return the Frobenius norms [R, L] of the factors."""
    import torch

    return torch.stack([p.flatten(1).square().sum(1).sqrt() for p in x.params], 1)


def _matrices(spec: TrialSpec) -> dict[str, int]:
    """How many singular values are recorded of each factor that is a matrix."""
    return {name: min(*shape, MOST_COLUMNS) for name, shape in spec.factor_shapes.items() if len(shape) == 2}


def _has_matrices(spec: TrialSpec, *_: str) -> str | None:
    return None if _matrices(spec) else "is defined where a factor is a matrix only"


def _value_columns(spec: TrialSpec) -> list[str]:
    return [f"sv_{name}_{k}" for name, count in _matrices(spec).items() for k in range(count)]


@measure(
    "the ten largest singular values of each factor: columns sv_W1_0, sv_W1_1, …",
    needs=_has_matrices,
    columns=_value_columns,
    product=False,
)
def factor_singular_values(x: Snapshot) -> Tensor:
    """Return the largest singular values [R, k] of the factors that are matrices, one after another, each in falling order."""
    import torch

    from workloads.measures.numerics.snapshot import singular_values

    return torch.cat([singular_values(p)[:, :MOST_COLUMNS] for p in x.params if p.dim() == 3], 1)


def _chained(spec: TrialSpec, *_: str) -> str | None:
    if spec.factorization.chained and len(spec.factor_shapes) > 1:
        return None
    return "is defined for products of two matrices or more"


def _pair_columns(spec: TrialSpec) -> list[str]:
    names = list(spec.factor_shapes)
    return [f"alignment_{name}" for name in names[1:]]


@measure(
    "|⟨u, v⟩| of the leading left singular vector u of a factor and the leading right one v of the next: columns alignment_W2, …",
    needs=_chained,
    columns=_pair_columns,
)
def alignment(x: Snapshot) -> Tensor:
    """Return by how much each factor but the first leads with what the one before it leads to [R, L - 1] (Ji and Telgarsky 2019).

    One is full alignment. A factor that is zero, or not finite, has none.
    """
    import torch

    pairs = [_leading(p) for p in x.params]
    return torch.stack([(left * right).sum(1).abs() for (left, _), (_, right) in itertools.pairwise(pairs)], 1)


def _leading(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the leading left and right singular vectors [R, n] of matrices [R, m, n]; NaN where there are none."""
    import torch

    there = matrices.flatten(1).isfinite().all(1) & matrices.flatten(1).any(1)
    left, _, right = torch.linalg.svd(matrices.where(there.view(-1, 1, 1), 0.0), full_matrices=False)
    gone = ~there.unsqueeze(1)
    return left[:, :, 0].masked_fill(gone, float("nan")), right[:, 0].masked_fill(gone, float("nan"))


@measure("Euclidean distance of all parameters from where they started", product=False)
def start_distance(x: Snapshot) -> Tensor:
    """Return the distance [R] of the parameters from the initial ones, the norm of which `factor_norms` has at step 0."""
    return x.start_distances
