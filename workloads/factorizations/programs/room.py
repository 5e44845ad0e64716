"""Buffers of which every lane starts on a line of cache. How a matrix product is rounded depends on where its operands lie: where each
lane's lie alike, a lane has the same bits in any place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LINE = 64
"""Bytes of a line of cache, and of the widest vectors."""


def room(lanes: int, shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a buffer [R, *shape], filled with zeros, for numbers as in ``like``."""
    dtype = like.dtype if dtype is None else dtype
    size, step = math.prod(shape), LINE // dtype.itemsize
    stride = max(1, -(-size // step)) * step
    # PyTorch's own memory starts on such a line.
    return like.new_zeros(lanes, stride, dtype=dtype)[:, :size].view(lanes, *shape)


def starts_on_lines(tensor: Tensor) -> bool:
    """Return whether every lane of a tensor [R, ...] starts on a line of cache."""
    return tensor.data_ptr() % LINE == 0 and tensor.stride(0) * tensor.element_size() % LINE == 0
