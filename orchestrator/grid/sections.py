"""From plain values to validated sections of a spec, with pydantic's findings in a user's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from orchestrator.grid.axes import Assignment, parents
from orchestrator.grid.model import SCALARS
from orchestrator.grid.quoting import nearest, shown
from orchestrator.grid.source import MAX_MISTAKES, Mistake, Path
from workloads.kinds import Kind, Registry
from workloads.losses import LOSSES
from workloads.section import Section, Seed
from workloads.stop import Stop
from workloads.trial import KINDS, Dtype

Model = TypeVar("Model", bound=Section)

KINDED: Mapping[str, Registry[Any]] = {**KINDS, "loss": LOSSES}
"""Parts that come in kinds. A loss may be written as its kind's name alone."""
PARTS = (*KINDS, "stop", "loss", *SCALARS)
"""The parts of a trial's spec."""
OWN = " (--with FILE.py brings kinds of your own)"
REQUIRED = ("problem", "factorization", "stop")

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "finite_number": "a finite number",
    "tuple_type": "a list",
    "model_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "literal_error": "{expected}",
}


@cache
def scalar_type(part: str) -> TypeAdapter[Any]:
    """Return the type of ``dtype`` or ``seed``."""
    # Made once for all values: there may be a hundred thousand seeds.
    types: dict[str, Any] = {"dtype": Dtype, "seed": Seed}
    return TypeAdapter(types[part])


def build_scalar(part: str, given: Sequence[Assignment], mistakes: list[Mistake]) -> Any:
    """Return the value of ``dtype`` or ``seed``, or ``None`` after a mistake."""
    assignment = given[-1]
    if below := next((a for a in given if a.key != part), None):
        mistakes.append(Mistake(below.path, below.key, f"{part} is a single value, not a mapping"))
        return None
    try:
        return scalar_type(part).validate_python(assignment.value, strict=True)
    except ValidationError as error:
        _explain(error, part, {part: assignment}, assignment.value, mistakes, (), ())
        return None


def named(part: str, given: Sequence[Assignment], mistakes: list[Mistake] | None = None) -> Sequence[Assignment]:
    """Return the assignments of a part, where a kind's name alone is its kind, and replaces all that was set of it elsewhere before."""
    last = max((n for n, assignment in enumerate(given) if assignment.key == part), default=None)
    if part != "loss" or last is None:
        return given
    name = given[last]
    beside = [a for a in given[:last] if a.key != part and a.path[:-1] == name.path[:-1]]
    rest = [*beside, *given[last + 1 :]]
    twice = next((a for a in rest if a.key == f"{part}.kind" and a.path[:-1] == name.path[:-1]), None)
    if twice is not None and mistakes is not None:
        mistakes.append(Mistake(twice.path, twice.key, f"has no effect beside {part}, which is the name of a kind already"))
    return [Assignment(f"{part}.kind", name.value, name.path), *rest]


def build_section(part: str, given: Sequence[Assignment], mistakes: list[Mistake]) -> Section | None:
    """Return a section from its assignments, or ``None`` after a mistake. Later assignments of a key win."""
    placed = {a.key: a for a in given}
    if part in placed:
        mistakes.append(Mistake(placed[part].path, part, f"must be a mapping of keys, not {shown(placed[part].value)}"))
        return None
    for above in {parent for key in placed for parent in parents(key)} & placed.keys():
        mistakes.append(Mistake(placed[above].path, above, f"must be a mapping of keys, not {shown(placed[above].value)}"))
        return None
    values = nested({a.key[len(part) + 1 :]: a.value for a in placed.values()})
    model: type[Section] = Stop
    others: tuple[type[Section], ...] = ()
    if part in KINDED:
        kinds = KINDED[part]
        kind = values.get("kind")
        if "kind" not in values:
            mistakes.append(Mistake(given[0].path, f"{part}.kind", f"is missing: one of {', '.join(kinds)}"))
            return None
        if not isinstance(kind, str) or kind not in kinds:
            mistakes.append(
                Mistake(placed.get(f"{part}.kind", given[0]).path, f"{part}.kind", f"unknown kind {shown(kind)}{nearest(kind, kinds)}{OWN}")
            )
            return None
        model = kinds[kind]
        others = tuple(m for m in kinds.values() if m is not model)
    return validate(model, part, values, placed, mistakes, others)


def validate(
    model: type[Model],
    part: str,
    values: Mapping[str, Any],
    placed: Mapping[str, Assignment],
    mistakes: list[Mistake],
    others: tuple[type[Section], ...] = (),
) -> Model | None:
    """``values`` as a ``model``, or ``None`` after a mistake; ``others`` are the other kinds of the section."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        _explain(error, part, placed, values, mistakes, _keys(model), others)
        return None


def _keys(model: type[Section]) -> tuple[str, ...]:
    """Return the keys that a section may have."""
    return (*(("kind",) if issubclass(model, Kind) else ()), *model.model_fields)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings. Where a key is both a value and a prefix, the prefix wins."""
    out: dict[str, Any] = {}
    for dotted, value in flat.items():
        *parents, last = dotted.split(".")
        inner = out
        for parent in parents:
            deeper = inner.get(parent)
            if not isinstance(deeper, dict):
                deeper = inner[parent] = {}
            inner = deeper
        inner[last] = value
    return out


def _explain(
    error: ValidationError,
    part: str,
    placed: Mapping[str, Assignment],
    values: Any,
    mistakes: list[Mistake],
    known: tuple[str, ...],
    others: tuple[type[Section], ...],
) -> None:
    """Pydantic's findings as mistakes: one per key, in plain words, where the key was written."""
    expected: dict[str, list[str]] = {}
    found: dict[str, tuple[Path, Any]] = {}
    refused: set[str] = set()
    items = error.errors(include_url=False)[: 2 * MAX_MISTAKES]
    hints = "".join(nearest(item["loc"][-1], known) for item in items if item["type"] == "extra_forbidden")
    for item in items:
        key, value = _locate(part, item["loc"], values)
        kind = item["type"]
        if kind == "missing" and not key.endswith(f".{item['loc'][-1]}"):
            key += f".{item['loc'][-1]}"
        path = _path(key, placed)
        if kind == "extra_forbidden":
            mistakes.append(Mistake(path, key, _unknown(key, part, values, known, others)))
        elif kind == "missing":
            if f"mean {item['loc'][-1]}?" in hints:
                continue  # it is there, with a slip of the pen that is reported
            mistakes.append(Mistake(path, key, "is missing"))
        elif kind == "value_error":
            refused.add(key)
            mistakes.append(Mistake(path, key, str(item["ctx"]["error"])))
        else:
            words = _EXPECTED.get(kind, item["msg"]).format(**item.get("ctx", {})).replace("'", "")
            expected.setdefault(key, []).append(words)
            found[key] = (path, value)
    for key, wanted in expected.items():
        if key in refused:
            continue  # what else it might have been does not matter
        path, value = found[key]
        choice = f" ({meant})" if (meant := _near_literal(value, wanted)) else ""
        mistakes.append(Mistake(path, key, f"must be {' or '.join(dict.fromkeys(wanted))}, not {shown(value)}{choice}"))


def _near_literal(value: object, words: list[str]) -> str:
    close = nearest(value, [w for text in words for w in text.replace(" or ", ", ").split(", ")]) if isinstance(value, str) else ""
    return close.removeprefix("; ").rstrip("?") + "?" if close.startswith(";") else ""


def _locate(part: str, location: tuple[int | str, ...], values: Any) -> tuple[str, Any]:
    """Return the dotted key that pydantic's location means, and the value there. Names of union members are passed over."""
    key, value = part, values
    for step in location:
        if isinstance(value, Mapping) and isinstance(step, str) and (step in value or value is values):
            key, value = f"{key}.{step}", value.get(step)
        elif isinstance(value, list | tuple) and isinstance(step, int) and step < len(value):
            key, value = f"{key}[{step}]", value[step]
    return key, value


def _path(key: str, placed: Mapping[str, Assignment]) -> Path:
    """Where ``key`` was written; for what was not, where something beside it was."""
    if key in placed:
        return placed[key].path
    plain, _, position = key.partition("[")
    if plain in placed:
        steps = [int(p) for p in position.replace("]", "").split("[") if p]
        return (*placed[plain].path, *steps)
    prefix = plain
    while "." in prefix:
        if inside := [a for k, a in placed.items() if k.startswith(f"{prefix}.")]:
            return inside[0].path
        prefix = prefix.rpartition(".")[0]
    return next(iter(placed.values())).path if placed else ()


def _unknown(key: str, part: str, values: Any, known: tuple[str, ...], others: tuple[type[Section], ...]) -> str:
    name = key[len(part) + 1 :].split(".")[0]
    if "." in key[len(part) + 1 :]:
        return "unknown key"
    if any(name in other.model_fields for other in others):
        return f"has no effect with {part}.kind {values['kind']}"
    return f"unknown key{nearest(name, known)}"
