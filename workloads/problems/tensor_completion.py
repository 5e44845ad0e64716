"""Tensor completion (arXiv 2005.06398, section 4)."""

from __future__ import annotations

from workloads.problems.completion import Completion


class TensorCompletion(Completion):
    """Some entries of a tensor of order three or more are observed."""

    kind = "tensor_completion"
    order = None
