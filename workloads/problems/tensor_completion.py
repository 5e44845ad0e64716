"""Tensor completion (arXiv 2005.06398, section 4)."""

from __future__ import annotations

from workloads.problems.completion import Completion


class TensorCompletion(Completion):
    """Some entries of a tensor of order three or more are observed."""

    kind = "tensor_completion"
    example = "{kind: tensor_completion, shape: [8, 8, 8], file: data/tensor.npz, observed: 0.2}"
    order = None
