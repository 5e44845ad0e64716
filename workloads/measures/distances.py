"""How far a trial is from what others come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.factorizations import FACTORIZATIONS
from workloads.measures.base import AgainstArray, measure
from workloads.measures.spectra import frobenius_norm
from workloads.measures.work import solved
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.measures.numerics.snapshot import Snapshot


def _solvable(spec: TrialSpec, kind: str) -> str | None:
    wrong = next(iter(FACTORIZATIONS[kind]().conflicts(spec.shape)), None)
    return None if wrong is None else wrong[1]


@measure(
    "‖W − V‖_F / ‖V‖_F, V being the solution of least nuclear or Frobenius norm that fits the observations",
    r"distance_to_(nuclear_norm|min_frobenius)",
    shown="distance_to_nuclear_norm",
    needs=_solvable,
    work=solved,
)
def distance_to(x: Snapshot, kind: str) -> Tensor:
    """Return the relative distance [R] to the solution of a convex problem with the same observations; NaN where that is zero."""
    return _relative(x, x.solution(kind))


@measure(
    "‖W − V‖_F / ‖V‖_F, V being the array that `record.references` calls so; NaN where that has another shape",
    r"distance_to_(?!(?:nuclear_norm|min_frobenius)$)([A-Za-z]\w*)",
    shown="distance_to_reference",
    kind=AgainstArray,
)
def distance_to_reference(x: Snapshot, name: str) -> Tensor:
    """Return the relative distance [R] to an array of a data file; NaN where that is zero, or of another shape."""
    there = x.reference(name)
    return x.loss.new_full(x.loss.shape, float("nan")) if there is None else _relative(x, there.expand_as(x.product))


def _relative(x: Snapshot, there: Tensor) -> Tensor:
    """Return distances [R] to matrices or tensors [R, *shape], relative to their norms; NaN where those are zero."""
    size = frobenius_norm(there)
    return (frobenius_norm(x.product - there) / size).where(size > 0, float("nan"))
