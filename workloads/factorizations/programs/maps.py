"""Elementwise functions as calls of PyTorch into buffers that are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

Operation = Callable[[], object]
LOGICAL = frozenset({"where", "logical_and", "logical_or", "logical_not"})
BOOLEAN = LOGICAL - {"where"} | {"eq", "ne", "lt", "le", "gt", "ge"}
"""Elementwise functions that take truths, and those that make them."""


def mapped(
    name: str, inputs: Sequence[Tensor], out: Tensor, dtype: torch.dtype, room: Callable[[Tensor, torch.dtype], Tensor]
) -> Iterator[Operation]:
    """Yield the calls that take an elementwise function ``name`` of ``inputs`` into ``out``.

    Numbers are of a ``dtype``; ``room`` makes a buffer that is like a tensor but for its type.
    """
    if name == "copy":
        yield partial(out.copy_, inputs[0])
        return
    given = list(inputs)
    if name == "where" and given[0].dtype is not torch.bool:
        truths = room(given[0], torch.bool)
        yield partial(torch.ne, given[0], 0.0, out=truths)
        given[0] = truths
    if name not in LOGICAL:
        # Converted by a call of its own: on the way PyTorch would make room for it.
        for place, value in enumerate(given):
            if value.dtype is torch.bool:
                given[place] = room(value, dtype)
                yield partial(given[place].copy_, value)
    if name == "relu":
        yield partial(torch.clamp_min, given[0], 0.0, out=out)
    elif name == "pow" and given[1].dim() == 0:
        yield partial(torch.pow, given[0], given[1].item(), out=out)
    else:
        yield partial(getattr(torch, name), *given, out=out)
