"""Infima over all completions of a 2x2 matrix with three observed entries, in closed form (the problem of arXiv 2005.06398, section 3).

W = [[x, a], [b, c]] with x free. Each function maps a, b, c [R] to the infimum over x [R] of what it is named after; whether it is
attained is said where it is not. Where the unobserved entry is elsewhere, rows and columns are exchanged until it is the first:
that changes no singular value.

Square roots are rounded alike wherever a lane lies in its batch, which `Tensor.hypot` and `Tensor.pow` are not: all but `schatten` of a
power other than 1 and 2 (there, to the last bit) give the same bits at every step of a trace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Infimum = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]


def frobenius(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """At x = 0."""
    return (a.square() + b.square() + c.square()).sqrt()


def spectral(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return the larger norm of the observed row and the observed column (Parrott 1978)."""
    return (c.square() + a.square().maximum(b.square())).sqrt()


def nuclear(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Of the square of the norm, x^2 + a^2 + b^2 + c^2 + 2 |xc - ab|, which is convex in x.

    Its minimum is where the determinant vanishes, if that is within reach (|ab| < c^2): there the norm is that of a matrix of rank one,
    |(a, c)| |(b, c)| / |c|. Else it is |a| + |b|, at x = c or x = -c.
    """
    within = (a * b).abs() < c.square()
    singular = (a.square() + c.square()).sqrt() * (b.square() + c.square()).sqrt() / c.abs().where(within, c.new_ones(()))
    return singular.where(within, a.abs() + b.abs())


def schatten(a: Tensor, b: Tensor, c: Tensor, power: float) -> Tensor:
    """Where c = 0: at x = 0, as the product of the singular values is |ab| whatever x, and both grow apart with |x|.

    NaN where c is not 0 and ``power`` is neither 1 nor 2.
    """
    if power == 1:
        return nuclear(a, b, c)
    if power == 2:
        return frobenius(a, b, c)
    top = a.abs().maximum(b.abs())
    scale = top.where(top > 0, top.new_ones(()))
    total = (a.abs() / scale).pow(power) + (b.abs() / scale).pow(power)
    return (total.pow(1 / power) * top).where(c == 0, c.new_full((), float("nan")))


def effective_rank(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """1, attained where a matrix of rank one fits (`rank`), else in the limit of large |x|; 0 where all observed entries are zero."""
    return _nonzero(a, b, c).to(a.dtype)


def stable_rank(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """As `effective_rank`."""
    return effective_rank(a, b, c)


def rank(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """1 where x = ab/c makes the determinant vanish or ab = 0, else 2; 0 where all observed entries are zero."""
    full = (a != 0) & (b != 0) & (c == 0)
    return _nonzero(a, b, c).to(a.dtype) + full.to(a.dtype)


def rank_distance_1(a: Tensor, b: Tensor, c: Tensor) -> Tensor:  # noqa: ARG001
    """0, attained or, where the rank is 2, in the limit of large |x|: the smaller singular value is |ab| over the larger."""
    return a.new_zeros(a.shape)


def _nonzero(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return (a != 0) | (b != 0) | (c != 0)


INFIMA: dict[str, Infimum] = {
    "nuclear": nuclear,
    "frobenius": frobenius,
    "spectral": spectral,
    "effective_rank": effective_rank,
    "stable_rank": stable_rank,
    "rank": rank,
    "rank_distance_1": rank_distance_1,
}
"""By the measure's name. Schatten norms, which take an argument, are in `schatten`."""
