"""Vector sensing (Candes, Romberg and Tao 2006)."""

from __future__ import annotations

from typing import ClassVar

from workloads.problems.sensing import Sensing


class VectorSensing(Sensing):
    """Inner products of a vector with Gaussian (or given) measurement vectors are observed."""

    kind = "vector_sensing"
    example = "{kind: vector_sensing, shape: [100], target: {sparsity: 5}, observed: 40}"
    order: ClassVar[int | None] = 1
