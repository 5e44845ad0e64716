"""From tensors to the arguments of a kernel."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from workloads.engines.lanes import Lanes

_NO_DRIVER = b"Warp CUDA warning: Could not find or load the NVIDIA CUDA driver"


@cache
def start_warp() -> Any:
    """Return the module, once it is started."""
    import warp as wp

    # A machine without a GPU is no news.
    wp.config.log_level = wp.LOG_ERROR
    with _unsaid(_NO_DRIVER):
        wp.init()
    return wp


@contextmanager
def _unsaid(start: bytes) -> Iterator[None]:
    """Leave out the lines with this ``start`` of what comes to the standard error meanwhile: Warp's library knows no level for them."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        before = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            said.seek(0)
            for line in said:
                if not line.startswith(start):
                    os.write(2, line)


def arguments(tables: list[Tensor]) -> list[Any]:
    """Return tensors as flat Warp arrays that share their memory."""
    wp = start_warp()
    kinds = {torch.float64: wp.float64, torch.float32: wp.float32, torch.int32: wp.int32, torch.int64: wp.int64}
    return [wp.from_torch(t.view(-1), dtype=kinds[t.dtype]) for t in tables]


def hyper(lanes: Lanes) -> Tensor:
    """Return the hyperparameters, the loss's scale and its numbers [R, n]."""
    return torch.stack([*lanes.hyper.values(), lanes.loss_scale, *lanes.loss_numbers.unbind(1)], 1)
