"""Kernels that hold a whole training loop, generated for a shape as C++ and compiled by NVIDIA Warp."""

from workloads.engines.kernels import cp, deep_matrix
from workloads.engines.kernels.base import KERNELS, Kernel, kernel_of

__all__ = ["KERNELS", "Kernel", "cp", "deep_matrix", "kernel_of"]
