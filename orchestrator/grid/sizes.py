"""How many points a grid has, by the lengths of what is written: said before anything is built, as a grid of 1e18 fits into a line."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from orchestrator.grid.axes import BLOCKS, parents
from orchestrator.grid.source import Mistake
from orchestrator.grid.spreads import MAX_TRIALS, is_count, many
from workloads.amounts import amount


def too_many(data: Mapping[str, Any], overrides: Mapping[str, int]) -> Iterator[Mistake]:
    """Yield what is too large to be built of a grid's ``data``; ``overrides`` are the keys that replace some of it, with their sizes.

    What is written wrongly counts as one point: it is reported where it is read.
    """
    written = data.get("cases")
    cases = [case for case in written if isinstance(case, Mapping)] if isinstance(written, list) else []
    sizes = [_block(case, ()) for case in cases]
    for place, size in enumerate(sizes):
        if size > MAX_TRIALS:
            message = f"has {size:,} points, more than the {MAX_TRIALS:,} trials that a grid may have"
            yield Mistake(("cases", place), "cases", message)
            return
    left = any(key in BLOCKS or not _replaced(key, overrides) for case in cases for key in case)
    seeds = 1 if "seed" in overrides else _count(data.get("seeds")) or many(data.get("seeds"))
    size = (sum(_block(case, overrides) for case in cases) if left else 1) * _block(data, overrides) * seeds * math.prod(overrides.values())
    if size > MAX_TRIALS:
        yield Mistake((), "", f"has {amount(size, 'trial')}, more than the {MAX_TRIALS:,} that a grid may have")


def _blocks(data: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each mapping of axes of a file or a case with the name of its kind; of ``zip`` there may be several."""
    for name in BLOCKS:
        written = data.get(name)
        for block in written if isinstance(written, list) else [written]:
            if isinstance(block, Mapping):
                yield name, block


def _block(data: Mapping[str, Any], overrides: Collection[str]) -> int:
    """Return how many points ``grid``, ``zip`` and ``random`` make, without the axes that ``overrides`` replace as a whole."""
    size = 1
    for name, block in _blocks(data):
        left = {key: value for key, value in block.items() if not _replaced(key, overrides)}
        if name == "random":
            size *= _count(block.get("samples")) or 1 if left.keys() - {"samples", "seed"} else 1
        elif name == "zip":
            size *= min((many(value) for value in left.values()), default=1)
        else:
            size *= math.prod(many(value) for value in left.values())
    return size


def _replaced(key: str, overrides: Collection[str]) -> bool:
    return any(above in overrides for above in (key, *parents(key)))


def _count(value: object) -> int:
    """Return a number of seeds or samples, or 0 for what is none that a grid may have."""
    return int(value) if is_count(value, 1) and not is_count(value, MAX_TRIALS + 1) else 0  # type: ignore[call-overload]
