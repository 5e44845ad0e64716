"""The loss around where a trial stands."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from workloads.measures.base import measure
from workloads.measures.work import differentiated
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.measures.numerics.snapshot import Snapshot


def _trained(spec: TrialSpec, *_: str) -> str | None:
    return f"is defined for what is trained, not for factorization.kind {spec.factorization.kind}" if spec.factorization.solved else None


@measure("Euclidean norm of the gradient of the loss by all parameters", needs=_trained, product=False, work=differentiated)
def gradient_norm(x: Snapshot) -> Tensor:
    """Return the norm [R] of the gradient: that of all observations or inputs, without clipping, decay or noise."""
    return x.gradient_norms


def _bends(spec: TrialSpec, *_: str) -> str | None:
    return _trained(spec) or (None if spec.loss.smooth else f"is not defined for loss {spec.loss.kind}, whose kinks no Hessian knows of")


@measure(
    "largest eigenvalue of the Hessian of the loss by all parameters",
    needs=_bends,
    product=False,
    work=partial(differentiated, vectors=True),
)
def sharpness(x: Snapshot) -> Tensor:
    """Return the largest eigenvalue [R] of the Hessian: descent with a step size above 2 over it is unstable (Cohen et al. 2021)."""
    return x.sharpness
