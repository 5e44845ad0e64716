"""What is minimized, and how far the result is from the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.measures.base import measure
from workloads.measures.spectra import frobenius_norm
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.measures.numerics.snapshot import Snapshot


@measure("the training loss (always recorded)")
def loss(x: Snapshot) -> Tensor:
    """Return the training loss [R]."""
    return x.loss


def _truth_is_known(spec: TrialSpec, *_: str) -> str | None:
    return None if spec.problem.truth_is_known else "needs the whole ground truth, but only what is observed is given"


@measure("‖W − W*‖_F / ‖W*‖_F", needs=_truth_is_known)
def error(x: Snapshot) -> Tensor:
    """Relative reconstruction error ||W - W*||_F / ||W*||_F [R]."""
    truth = x.truth
    return frobenius_norm(x.product - truth) / frobenius_norm(truth)
