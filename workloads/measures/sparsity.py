"""Norms of entries and how many of them count: of vectors, or of matrices and tensors as vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.measures.base import measure, vector
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.measures.numerics.snapshot import Snapshot

POWER = r"(\d+(?:\.\d+)?|inf)"


def power_norm(magnitudes: Tensor, power: str) -> Tensor:
    """Return (sum of m^p)^(1/p) [R] of magnitudes [R, D], or the largest of them for ``inf``.

    Taken relative to the largest one, so that small p neither overflows nor underflows.
    """
    top = magnitudes.amax(1, keepdim=True)
    if power == "inf":
        return top[:, 0]
    p = float(power)
    scaled = (magnitudes / top.where(top > 0, top.new_ones(()))).pow(p).sum(1).pow(1 / p)
    return scaled * top[:, 0]


def _power(spec: TrialSpec, power: str) -> str | None:  # noqa: ARG001
    return "needs a power above 0" if power != "inf" and float(power) <= 0 else None


@measure("ℓ_p (quasi-)norm of the entries, any p > 0 or inf: l1, l2, l0.5, linf", rf"l{POWER}", shown="l1", needs=_power)
def lp(x: Snapshot, power: str) -> Tensor:
    """Return the l_p (quasi-)norm of the entries [R]."""
    return power_norm(x.product.flatten(1).abs(), power)


@measure("‖W‖₁² / ‖W‖₂² of the entries: how many of them count")
def effective_sparsity(x: Snapshot) -> Tensor:
    """Return the effective sparsity [R] (Plan and Vershynin 2013): the number of entries if all of them are equal; 0 for zero."""
    entries = x.product.flatten(1).abs()
    top = entries.amax(1, keepdim=True)
    scaled = entries / top.where(top > 0, top.new_ones(()))
    found: Tensor = scaled.sum(1).square() / scaled.square().sum(1)
    return found.where(top[:, 0] != 0, top.new_zeros(()))


@measure("number of entries that are not zero numerically")
def nonzeros(x: Snapshot) -> Tensor:
    """Return the number of entries [R] above size * machine epsilon (of the trial's dtype) * the largest."""
    entries = x.product.flatten(1).abs()
    count: Tensor = (entries > entries.amax(1, keepdim=True) * (entries.shape[1] * x.epsilon)).to(entries.dtype).sum(1)
    return count.where(entries.isfinite().all(1), entries.new_full((), float("nan")))


def _vector_power(spec: TrialSpec, power: str) -> str | None:
    return vector(spec) or _power(spec, power)


@measure(
    "ℓ_p (quasi-)norm of a vector's unitary discrete Fourier transform, any p > 0 or inf",
    rf"fourier_l{POWER}",
    shown="fourier_l1",
    needs=_vector_power,
)
def fourier_lp(x: Snapshot, power: str) -> Tensor:
    """Return the l_p (quasi-)norm [R] of the D complex coefficients of the transform that keeps the Euclidean norm."""
    import torch

    return power_norm(torch.fft.fft(x.product, norm="ortho").abs(), power)
