"""How factors lie to one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.factorizations import FACTORIZATIONS, Factorization
from workloads.measures.base import measure
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.measures.numerics.snapshot import Snapshot


def _balances(spec: TrialSpec, *_: str) -> str | None:
    if spec.factorization.knows_balance:
        return None
    kinds = [kind for kind, model in FACTORIZATIONS.items() if model.unbalancedness is not Factorization.unbalancedness]
    return f"is defined for factorization.kind {' or '.join(kinds)} only"


@measure("largest ‖W_{l+1}ᵀW_{l+1} − W_l W_lᵀ‖_F of neighbouring factors, or |‖v‖² − ‖v′‖²| of two vectors of a component", needs=_balances)
def unbalancedness(x: Snapshot) -> Tensor:
    """Return what gradient flow keeps of its start [R], zero where that is balanced (arXiv 1810.02281, theorem 1; 2201.11729, lemma 1)."""
    return x.factorization.unbalancedness(x.params)
