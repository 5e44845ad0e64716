"""How far a trial is from what others come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.factorizations import FACTORIZATIONS
from workloads.measures.base import measure
from workloads.measures.spectra import frobenius_norm
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
)
def distance_to(x: Snapshot, kind: str) -> Tensor:
    """Return the relative distance [R] to the solution of a convex problem with the same observations; NaN where that is zero."""
    solution = x.solution(kind)
    size = frobenius_norm(solution)
    return (frobenius_norm(x.product - solution) / size).where(size > 0, float("nan"))
