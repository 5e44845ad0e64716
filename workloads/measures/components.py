"""Components of rank one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.factorizations import FACTORIZATIONS, Factorization
from workloads.measures.base import MOST_COLUMNS, measure
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.measures.numerics.snapshot import Snapshot


def _components(spec: TrialSpec, *_: str) -> str | None:
    if spec.factorization.terms(spec.shape) is not None:
        return None
    kinds = [kind for kind, model in FACTORIZATIONS.items() if model.terms is not Factorization.terms]
    return f"is defined for factorization.kind {' or '.join(kinds)} only"


def _columns(spec: TrialSpec) -> list[str]:
    return [f"component_{k}" for k in range(min(spec.factorization.terms(spec.shape) or 0, MOST_COLUMNS))]


@measure("norms of the CP components, largest first: columns component_0, …", needs=_components, columns=_columns)
def components(x: Snapshot) -> Tensor:
    """Frobenius norms of the CP components [R, k], the largest first (at most ten): the product of the vectors' norms."""
    return x.component_norms[:, :MOST_COLUMNS]
