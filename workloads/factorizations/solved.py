"""What baselines have in common that are solved rather than descended to."""

from __future__ import annotations

from typing import ClassVar

from workloads.factorizations.whole import Whole


class Solved(Whole):
    """The matrix or tensor itself, found by solving a convex problem rather than by descent: no start, no optimizer, no loss to stop at."""

    solved: ClassVar[bool] = True
