"""Single entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.measures.base import completion, index, indices, measure
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.measures.numerics.snapshot import Snapshot


def _square(spec: TrialSpec, *_: str) -> str | None:
    return None if len(spec.shape) == 2 and len(set(spec.shape)) == 1 else "is defined for square matrices only"


@measure("determinant", needs=_square)
def det(x: Snapshot) -> Tensor:
    """Return the determinant [R]."""
    return x.product.det()


@measure("one entry of the product", r"entry((?:_\d+)+)", shown="entry_0_0", needs=index)
def entry(x: Snapshot, text: str) -> Tensor:
    """One entry of the product [R], for example ``entry_0_0``."""
    out = x.product
    for i in indices(text):
        out = out[:, i]
    return out


def _seen_index(spec: TrialSpec, text: str) -> str | None:
    return index(spec, text) or completion(spec)


@measure("observed value of one entry, which never changes", r"observed((?:_\d+)+)", shown="observed_0_1", needs=_seen_index)
def observed(x: Snapshot, text: str) -> Tensor:
    """Return the observed value of one entry [R], for example ``observed_0_1``; NaN where it is not observed. It does not change."""
    seen, values = x.observed, x.target
    for i in indices(text):
        seen, values = seen[:, i], values[:, i]
    return values.where(seen, values.new_full((), float("nan")))


def _unobserved(spec: TrialSpec, *_: str) -> str | None:
    if reason := completion(spec):
        return reason
    return "needs an unobserved entry, but all are observed" if spec.problem.observations() == spec.problem.size else None


@measure("largest |unobserved entry|", needs=_unobserved)
def unobserved_max(x: Snapshot) -> Tensor:
    """Largest absolute value among the unobserved entries [R]; NaN where all are observed."""
    size = x.product.flatten(1).abs().masked_fill(x.observed.flatten(1), -1.0).amax(1)
    return size.where(size != -1.0, size.new_full((), float("nan")))
