"""Singular values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from workloads.measures.base import MOST_COLUMNS, Counted, matrix, matrix_rank, measure
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.measures.numerics.snapshot import Snapshot


def frobenius_norm(tensors: Tensor) -> Tensor:
    """Return the Frobenius norms [R] of [R, ...]."""
    return tensors.flatten(1).square().sum(1).sqrt()


def _leading(spec: TrialSpec, count: str | None) -> str | None:
    return matrix(spec) or (None if count is None or int(count) >= 1 else "needs a count of at least 1")


def _sv_columns(spec: TrialSpec, count: str | None) -> list[str]:
    return [f"sv_{k}" for k in range(min(*spec.shape, int(count or MOST_COLUMNS)))]


def _as_many(column: str) -> str | None:
    found = re.fullmatch(r"sv_(\d{1,6})", column, re.ASCII)
    return found and f"singular_values_{int(found[1]) + 1}"


@measure(
    "the ten largest singular values, or the K largest with singular_values_K: columns sv_0, sv_1, …",
    r"singular_values(?:_(\d+))?",
    shown="singular_values",
    needs=_leading,
    columns=_sv_columns,
    kind=Counted,
    by_column=_as_many,
)
def singular_values(x: Snapshot, count: str | None) -> Tensor:
    """Return the largest singular values [R, k], in falling order."""
    return x.singular_values[:, : int(count or MOST_COLUMNS)]


@measure("Frobenius distance to the matrices of rank r, any r", r"rank_distance_(\d+)", shown="rank_distance_1", needs=matrix_rank)
def rank_distance(x: Snapshot, text: str) -> Tensor:
    """Frobenius distance [R] to the nearest matrix of rank ``text`` or less: the tail of the singular values (Eckart and Young 1936)."""
    return x.singular_values[:, int(text) :].square().sum(1).sqrt()
