"""From tensors to the arguments of a kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workloads.engines.lanes import Lanes


def start_warp() -> Any:
    """Return the module, once it is started."""
    import warp as wp

    # A machine without a GPU is no news.
    wp.config.log_level = wp.LOG_ERROR
    wp.init()
    return wp


def arguments(tables: list[Tensor]) -> list[Any]:
    """Return tensors as flat Warp arrays that share their memory."""
    wp = start_warp()
    kinds = {torch.float64: wp.float64, torch.float32: wp.float32, torch.int32: wp.int32, torch.int64: wp.int64}
    return [wp.from_torch(t.view(-1), dtype=kinds[t.dtype]) for t in tables]


def hyper(lanes: Lanes) -> Tensor:
    """Return the hyperparameters and the loss's scale [R, n]."""
    return torch.stack([*lanes.hyper.values(), lanes.loss_scale], 1)
