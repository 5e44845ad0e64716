"""Norms of the end-to-end matrix or tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.measures.base import matrix, matrix_rank, measure
from workloads.measures.spectra import frobenius_norm
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.measures.numerics.snapshot import Snapshot


@measure("Frobenius norm")
def frobenius(x: Snapshot) -> Tensor:
    """Frobenius norm [R] of a matrix or tensor."""
    return frobenius_norm(x.product)


@measure("Frobenius norm of the part that no observation sees: zero for the least norm alone, of all that fits them")
def unseen_norm(x: Snapshot) -> Tensor:
    """Return the norm [R] of the projection onto the null space of the observations, for entries that of the unobserved ones."""
    return x.unseen_norms


@measure("nuclear norm", needs=matrix)
def nuclear(x: Snapshot) -> Tensor:
    """Nuclear norm [R]: the sum of the singular values."""
    return x.singular_values.sum(1)


@measure("spectral norm", needs=matrix)
def spectral(x: Snapshot) -> Tensor:
    """Spectral norm [R]: the largest singular value."""
    return x.singular_values[:, 0]


def _positive_power(spec: TrialSpec, power: str) -> str | None:
    return matrix(spec) or (None if float(power) > 0 else "needs a power above 0")


@measure("Schatten-p (quasi-)norm, any p > 0", r"schatten_(\d+(?:\.\d+)?)", shown="schatten_0.5", needs=_positive_power)
def schatten(x: Snapshot, power: str) -> Tensor:
    """Schatten-p (quasi-)norm [R]: (sum of sigma^p)^(1/p), a quasi-norm for p < 1.

    Taken relative to the largest singular value, so that small p neither overflows nor underflows.
    """
    p = float(power)
    top = x.singular_values[:, :1]
    scaled = (x.singular_values / top.where(top > 0, top.new_ones(()))).pow(p).sum(1).pow(1 / p)
    return scaled * top[:, 0]


def _count_of_matrix(spec: TrialSpec, count: str) -> str | None:
    return "needs a count of at least 1" if int(count) < 1 else matrix_rank(spec, count)


@measure("Ky Fan norm: the sum of the K largest singular values, any K", r"ky_fan_(\d+)", shown="ky_fan_2", needs=_count_of_matrix)
def ky_fan(x: Snapshot, count: str) -> Tensor:
    """Ky Fan norm [R]: the sum of the ``count`` largest singular values (Fan 1951)."""
    return x.singular_values[:, : int(count)].sum(1)
