"""What a trial's run is called: by what tells it apart from the others of its sweep, ``depth 3 · scale 1e-3 · seed 2``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

_T = TypeVar("_T")

LONGEST = 250
"""Characters of a run's name that MLflow's tables have room for."""


def run_name(trial_id: str, spec: Mapping[str, Any], varying: Sequence[str], outcome: str = "") -> str:
    """Return the name of the run of a trial with a flat ``spec``: the values of the keys that are ``varying``, in their order.

    Keys are called by their last part where that is enough, a kind by its value alone. An ``outcome`` that is not to be overlooked comes
    last. A trial that has none of the keys is called by its id.
    """
    words = [_word(key, spec[key], varying) for key in varying if spec.get(key) is not None] or [trial_id]
    name = " · ".join([*words, *([outcome] if outcome else [])])
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."


def varying_first(spec: Mapping[str, _T], varying: Sequence[str]) -> dict[str, _T]:
    """Return a flat ``spec`` with the keys that are ``varying`` before all others: MLflow's page shows params as they were written."""
    return {key: spec[key] for key in (*(key for key in varying if key in spec), *spec)}


def _word(key: str, value: Any, varying: Sequence[str]) -> str:
    above, _, last = key.rpartition(".")
    section = above.rpartition(".")[2]
    shown = _shown(value)
    if last == "kind":
        return shown
    alone = sum(other.rpartition(".")[2] == last for other in varying) == 1
    return f"{last if alone or not section else f'{section} {last}'} {shown}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        mantissa, e, exponent = f"{value:.4g}".partition("e")
        return f"{mantissa}e{int(exponent)}" if e else mantissa
    if isinstance(value, list | tuple):
        return "x".join(_shown(item) for item in value)
    return str(value)
