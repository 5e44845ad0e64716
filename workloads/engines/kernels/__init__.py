"""Kernels that hold a whole training loop, generated for a shape as C++ and compiled by NVIDIA Warp."""

from workloads.engines.kernels import cp, deep_matrix
from workloads.engines.kernels.base import KERNELS, Kernel
from workloads.engines.kernels.traced import TRACED
from workloads.trial import TrialSpec

__all__ = ["KERNELS", "TRACED", "Kernel", "cp", "deep_matrix", "kernel_of"]


def kernel_of(spec: TrialSpec) -> Kernel | None:
    """Return the kernel for trials of ``spec``: one written by hand, or one that is written from a graph; ``None`` where there is none."""
    kernel = KERNELS.get(spec.factorization.kind)
    return TRACED if kernel is None and spec.factorization.differentiated else kernel
