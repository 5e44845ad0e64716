"""No factorization."""

from __future__ import annotations

from workloads.factorizations.whole import Whole


class Linear(Whole):
    """The matrix or tensor itself, from zero: fits the observations and leaves zeros elsewhere."""

    kind = "linear"
    example = "{kind: linear}"
