"""Tensor sensing."""

from __future__ import annotations

from workloads.problems.sensing import ProductSensing


class TensorSensing(ProductSensing):
    """Inner products of a tensor with Gaussian (or given) measurement tensors are observed."""

    kind = "tensor_sensing"
    example = "{kind: tensor_sensing, shape: [8, 8, 8], target: {rank: 3}, observed: 300}"
    order = None
