"""The final factors of many small trials in one file, and the factors at checkpoints that were asked for: safetensors, never unpickled.

Trials of a pack have equal shapes, so a factor of all of them is one array, and a trial is its row.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from workloads.training.results import TrialResult

Factors = Mapping[str, NDArray[Any]]
"""Factors by name: ``W1`` …, ``A1`` …, and ``W1 at step-1000`` for those at a checkpoint."""
FORMAT = "orchestrate-factors-1"
SMALL = 64 << 10
"""Bytes of a trial's factors up to which they share a file with others'."""
_AT = " at "


def factors_of(result: TrialResult) -> dict[str, NDArray[Any]]:
    """Return the factors of a trial that has ended, those at checkpoints included."""
    found = dict(result.factors)
    for checkpoint, factors in result.checkpoints.items():
        found |= {f"{name}{_AT}{checkpoint}": factor for name, factor in factors.items()}
    return found


def is_small(factors: Factors) -> bool:
    """Return whether factors are better kept with those of other trials: there are some, and they are not many bytes."""
    return 0 < sum(factor.nbytes for factor in factors.values()) <= SMALL


def encode_factors(trials: Mapping[str, Factors]) -> bytes:
    """Return the factors of trials, by trial id, as one file."""
    from safetensors.numpy import save

    groups: dict[Any, list[str]] = defaultdict(list)
    for trial_id, factors in trials.items():
        groups[tuple((name, factor.shape, factor.dtype.str) for name, factor in factors.items())].append(trial_id)
    tensors = {
        f"{place}/{name}": np.stack([trials[trial_id][name] for trial_id in some])
        for place, some in enumerate(groups.values())
        for name in trials[some[0]]
    }
    content: bytes = save(tensors, {"format": FORMAT, "trials": json.dumps(list(groups.values()))})
    return content


def decode_factors(content: bytes, wanted: Collection[str] | None = None) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Yield the trials of a file of `encode_factors`, or those that are ``wanted``, each with its factors in the order of their names."""
    from safetensors.numpy import load

    size = int.from_bytes(content[:8], "little")
    groups: list[list[str]] = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["trials"])
    tensors = load(content)
    for place, some in enumerate(groups):
        named = sorted(name for name in tensors if name.startswith(f"{place}/"))
        named.sort(key=len)
        for row, trial_id in enumerate(some):
            if wanted is None or trial_id in wanted:
                yield trial_id, {name.partition("/")[2]: tensors[name][row] for name in named}


def flat(trials: Iterable[tuple[str, Factors]]) -> dict[str, NDArray[Any]]:
    """Return factors of trials by ``trial id/name``, as an `.npz` file has them."""
    return {f"{trial_id}/{name}": factor for trial_id, factors in trials for name, factor in factors.items()}
