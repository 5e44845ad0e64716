"""Parts that stand several times in a JSON Schema, written once: under ``$defs``, and referred to elsewhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_NAMED = ("properties", "$defs")
_LISTED = ("anyOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")
"""Keywords with schemas below them: by name, in a list, or one. Those of other schemas do not occur in a grid's."""


def with_parts(schema: Schema) -> dict[str, Any]:
    """Return a schema that says the same of everything, in which what stood in it several times is a part under ``$defs``.

    A part that was there already has the name that it had, others that of the place where they stood first.
    """
    parts = dict(schema.get("$defs", {}))
    names: dict[str, str] = {}
    for name, part in parts.items():
        names.setdefault(_text(part), name)
    count: Counter[str] = Counter()
    first: dict[str, str] = {}
    for place, part in _parts(schema, "", count):
        first.setdefault(_text(part), place)
    for text, times in count.items():
        name = _free(first[text], parts)
        if text not in names and times * (len(text) - len(_reference(name))) > len(text) + len(name):
            names[text], parts[name] = name, json.loads(text)

    def referred(part: Any) -> Any:
        text = _text(part)
        reference = _reference(names[text]) if text in names else text
        return json.loads(reference) if len(reference) < len(text) else _mapped(part, referred)

    inner = {name: _mapped(part, referred) for name, part in parts.items()}
    rest = _mapped({key: value for key, value in schema.items() if key != "$defs"}, referred)
    return {**rest, "$defs": inner}


def as_text(schema: Schema) -> str:
    """Return a schema as JSON with a line for each of its keys and parts, and for nothing else."""
    lines = []
    for key, value in schema.items():
        if key in _NAMED:
            parts = ",\n".join(f"    {json.dumps(name)}: {json.dumps(part)}" for name, part in value.items())
            lines.append(f"  {json.dumps(key)}: {{\n{parts}\n  }}")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}"


def _parts(schema: Any, place: str, count: Counter[str]) -> Iterator[tuple[str, Any]]:
    """Yield the schemas within one, each with a name of its place; what is in one that was there before is counted once."""
    for name, part in _below(schema):
        at = f"{place}.{name}".strip(".") if name else place
        count[text := _text(part)] += 1
        if count[text] == 1:
            yield at, part
            yield from _parts(part, at, count)


def _below(schema: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(schema, dict):
        return
    for key in _NAMED:
        yield from schema.get(key, {}).items()
    for key in _LISTED:
        yield from (("", part) for part in schema.get(key, ()))
    for key in _SINGLE:
        if key in schema:
            yield "each", schema[key]


def _mapped(schema: Any, change: Callable[[Any], Any]) -> Any:
    """Return a schema with those right below it changed."""
    if not isinstance(schema, dict):
        return schema
    made = dict(schema)
    for key in _NAMED:
        if key in made:
            made[key] = {name: change(part) for name, part in made[key].items()}
    for key in _LISTED:
        if key in made:
            made[key] = [change(part) for part in made[key]]
    for key in _SINGLE:
        if key in made:
            made[key] = change(made[key])
    return made


def _reference(name: str) -> str:
    return _text({"$ref": f"#/$defs/{name}"})


def _text(schema: Any) -> str:
    return json.dumps(schema)


def _free(name: str, taken: Collection[str]) -> str:
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}.{number}"
    return found
