"""Trials as bytes, and back: safetensors with a header of JSON, so that nothing is ever unpickled.

A pack's trials have equal shapes, so they are kept as columns: one array for each parameter, each number and all traces, however many
trials there are.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.training.trial_state import Trace

FORMAT = "orchestrate-trials-1"


class CorruptRows(Exception):
    """Bytes that are not what `encode` makes."""


@dataclass(frozen=True)
class Row:
    """One trial: numbers and arrays by name, its trace, and texts by name."""

    trial_id: str
    numbers: Mapping[str, float]
    arrays: Mapping[str, NDArray[Any]]
    trace: Trace
    texts: Mapping[str, str] = field(default_factory=dict)


def encode(rows: Sequence[Row], about: Mapping[str, str]) -> bytes:
    """Return the rows as one safetensors file; ``about`` is what they have in common."""
    from safetensors.numpy import save

    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        arrays = tuple((name, array.shape, array.dtype.str) for name, array in row.arrays.items())
        groups[arrays, tuple(row.numbers), row.trace.columns].append(row)
    tensors: dict[str, NDArray[Any]] = {}
    headers = []
    for place, some in enumerate(groups.values()):
        first = some[0]
        headers.append({"trials": [r.trial_id for r in some], "columns": first.trace.columns, "texts": [dict(r.texts) for r in some]})
        for name in first.numbers:
            tensors[f"{place}/number/{name}"] = np.array([row.numbers[name] for row in some])
        for name in first.arrays:
            tensors[f"{place}/array/{name}"] = np.stack([row.arrays[name] for row in some])
        tensors[f"{place}/counts"] = np.array([len(row.trace.steps) for row in some], dtype=np.int64)
        tensors[f"{place}/steps"] = np.concatenate([row.trace.steps for row in some])
        tensors[f"{place}/values"] = np.concatenate([row.trace.values for row in some])
    content: bytes = save(tensors, {"format": FORMAT, "about": json.dumps(dict(about)), "groups": json.dumps(headers)})
    return content


def decode(content: bytes) -> tuple[list[Row], dict[str, str]]:
    """Return what `encode` was given. Raises `CorruptRows`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])["__metadata__"]
        if header["format"] != FORMAT:
            raise CorruptRows(f"is of the format {header['format']!r}, not {FORMAT}")
        tensors = load(content)
        rows = [row for place, group in enumerate(json.loads(header["groups"])) for row in _rows(group, f"{place}/", tensors)]
        return rows, dict(json.loads(header["about"]))
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
        raise CorruptRows(f"is not a file of trials: {error}") from error


def _rows(group: Mapping[str, Any], prefix: str, tensors: Mapping[str, NDArray[Any]]) -> list[Row]:
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    numbers = {name.removeprefix("number/"): tensor.tolist() for name, tensor in named.items() if name.startswith("number/")}
    # Tensors come back in the order of their names.
    arrays = {name.removeprefix("array/"): tensor for name, tensor in sorted(named.items(), key=_order) if name.startswith("array/")}
    ends = np.cumsum(named["counts"])
    rows = []
    for n, (trial_id, texts) in enumerate(zip(group["trials"], group["texts"], strict=True)):
        part = slice(int(ends[n] - named["counts"][n]), int(ends[n]))
        trace = Trace(tuple(group["columns"]), named["steps"][part], named["values"][part])
        row = Row(trial_id, {k: v[n] for k, v in numbers.items()}, {k: v[n] for k, v in arrays.items()}, trace, texts)
        rows.append(row)
    return rows


def _order(pair: tuple[str, Any]) -> tuple[int, str]:
    """``array/10`` after ``array/9``."""
    return len(pair[0]), pair[0]
