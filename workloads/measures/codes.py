"""Codes: what inputs are in the midst of a function (arXiv 2010.00679, section 3.3)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from workloads.factorizations import FACTORIZATIONS, Factorization
from workloads.measures.base import MOST_COLUMNS, Counted, measure
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.measures.numerics.snapshot import Snapshot


def _coded(spec: TrialSpec, *_: str) -> str | None:
    if spec.factorization.code_width() is None:
        kinds = [kind for kind, model in FACTORIZATIONS.items() if model.code_width is not Factorization.code_width]
        return f"is defined for factorization.kind {' or '.join(kinds)} only"
    return None if spec.problem.held_out_entries() else "needs inputs that are held out: give problem.held_out"


def _some(spec: TrialSpec, count: str | None) -> str | None:
    return _coded(spec) or ("needs a count of at least 1" if count is not None and int(count) < 1 else None)


def _kept(spec: TrialSpec, count: str | None) -> int:
    return min(spec.factorization.code_width() or 0, int(count or MOST_COLUMNS))


def _as_many(column: str) -> str | None:
    """Return the measure that has the column of a number of a code's: the first of them, so many as there have to be."""
    found = re.fullmatch(r"code_(sv|spectrum)_(\d{1,6})", column, re.ASCII)
    return found and f"code_{'singular_values' if found[1] == 'sv' else 'spectrum'}_{int(found[2]) + 1}"


def _columns(spec: TrialSpec, count: str | None) -> list[str]:
    return [f"code_sv_{k}" for k in range(_kept(spec, count))]


@measure(
    "the ten largest singular values of the covariance of the codes of held-out inputs, or the K largest with code_singular_values_K: "
    "columns code_sv_0, …",
    r"code_singular_values(?:_(\d+))?",
    shown="code_singular_values",
    needs=_some,
    columns=_columns,
    kind=Counted,
    by_column=_as_many,
    product=False,
)
def code_singular_values(x: Snapshot, count: str | None) -> Tensor:
    """Return the largest singular values [R, k] of the covariance of codes, in falling order."""
    return x.code_singular_values[:, : int(count or MOST_COLUMNS)]


def _spectrum_columns(spec: TrialSpec, count: str | None) -> list[str]:
    return [f"code_spectrum_{k}" for k in range(_kept(spec, count))]


@measure(
    "the same divided by the largest of them, and code_spectrum_K: columns code_spectrum_0, which is 1, …",
    r"code_spectrum(?:_(\d+))?",
    shown="code_spectrum",
    needs=_some,
    columns=_spectrum_columns,
    kind=Counted,
    by_column=_as_many,
    product=False,
)
def code_spectrum(x: Snapshot, count: str | None) -> Tensor:
    """Return the largest singular values [R, k] of the covariance of codes over the largest; NaN where all codes are one."""
    return x.code_singular_values[:, : int(count or MOST_COLUMNS)] / x.code_singular_values[:, :1]


@measure("effective rank of the covariance of the codes of held-out inputs", needs=_coded, product=False)
def code_effective_rank(x: Snapshot) -> Tensor:
    """Return the effective rank [R] (Roy and Vetterli 2007) of the covariance of codes."""
    from workloads.measures.ranks import entropy_rank

    return entropy_rank(x.code_singular_values)


def _share(spec: TrialSpec, share: str) -> str | None:
    return _coded(spec) or (None if 0 < float(share) < 1 else "needs a share between 0 and 1")


@measure(
    "number of singular values of that covariance above a share of the largest, any share",
    r"code_rank_(\d*\.\d+)",
    shown="code_rank_0.01",
    needs=_share,
    product=False,
)
def code_rank(x: Snapshot, share: str) -> Tensor:
    """Return how many singular values [R] of the covariance of codes are above ``share`` times the largest; NaN where one is not finite."""
    s = x.code_singular_values
    count = (s > s[:, :1] * float(share)).to(s.dtype).sum(1)
    return count.where(s.isfinite().all(1), s.new_full((), float("nan")))
