"""Ground truths that are drawn."""

from __future__ import annotations

from workloads.section import Count, Positive, Section


class Target(Section):
    """A drawn ground truth of given rank (CP rank for tensors) and Frobenius norm."""

    rank: Count
    """Of the ground truth; of a tensor, its CP rank."""
    frobenius: Positive = 1.0
    """Norm of the ground truth."""
