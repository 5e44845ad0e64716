"""What is minimized, and how far the result is from the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.measures.base import measure
from workloads.measures.spectra import frobenius_norm
from workloads.measures.work import of_products
from workloads.optimizers.base import OPTIONS
from workloads.problems.held_out import HeldOut
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.measures.numerics.snapshot import Snapshot


@measure("the training loss (always recorded); of mini-batches that are inputs, that of the next", product=False, state=True)
def loss(x: Snapshot) -> Tensor:
    """Return the training loss [R]."""
    return x.loss


def _keeps_time(spec: TrialSpec, *_: str) -> str | None:
    known = spec.optimizer is not None and spec.optimizer.keeps_time
    options = f"{', '.join(OPTIONS[:-1])} or {OPTIONS[-1]}"
    return None if known else f"is known with optimizer gradient_flow, and with gd of plain steps: not with {options}"


@measure(
    "time of gradient flow, dw/dt = −∇ℓ(w): of gd the step times lr, as Euler's method has it",
    needs=_keeps_time,
    product=False,
    state=True,
)
def time(x: Snapshot) -> Tensor:
    """Return how far along gradient flow trials are [R]."""
    return x.times


def _truth_is_known(spec: TrialSpec, *_: str) -> str | None:
    return None if spec.problem.truth_is_known else "needs the whole ground truth, but only what is observed is given"


@measure("‖W − W*‖_F / ‖W*‖_F", needs=_truth_is_known)
def error(x: Snapshot) -> Tensor:
    """Relative reconstruction error ||W - W*||_F / ||W*||_F [R]."""
    truth = x.truth
    return frobenius_norm(x.product - truth) / frobenius_norm(truth)


def _held_out(spec: TrialSpec, *_: str) -> str | None:
    if spec.problem.held_out_entries():
        return None
    if not (isinstance(spec.problem, HeldOut) or spec.problem.inputs):
        return "is defined for completion problems, regression and reconstruction only"
    return "needs problem.held_out" if spec.problem.sensing or spec.problem.inputs else "needs entries that are known but not observed"


@measure(
    "‖W − Y‖ / ‖Y‖ over the entries, or for the examples or inputs, that are held out, of observed values Y",
    needs=_held_out,
    product=False,
    work=of_products,
)
def held_out_error(x: Snapshot) -> Tensor:
    """Relative error over what is held out [R]: this is observed with noise, where there is any, but not trained on."""
    if x.factorization.maps:
        return (x.reconstruction.squares / x.reconstruction.total).sqrt()
    errors, values, _ = x.held_out
    return frobenius_norm(errors) / frobenius_norm(values)


@measure(
    "root of the mean squared error over the entries, or for the examples or inputs, that are held out",
    needs=_held_out,
    product=False,
    work=of_products,
)
def held_out_rmse(x: Snapshot) -> Tensor:
    """Root mean squared error over what is held out [R], as the literature on ratings has it."""
    if x.factorization.maps:
        return (x.reconstruction.squares / x.reconstruction.count).sqrt()
    errors, _, count = x.held_out
    return frobenius_norm(errors) / count.double().sqrt()
