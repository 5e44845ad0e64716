"""The tables of ``docs/grid.md``, from the models that check grid files. ``python -m orchestrator.grid.reference`` rewrites them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.grid.claims import CLAIMS, Claim
from orchestrator.grid.figures import FIGURES, Figure
from orchestrator.grid.model import Record, Resources, Tracking
from orchestrator.grid.schema import inlined
from workloads import measures
from workloads.section import Section
from workloads.stop import Stop
from workloads.trial import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "grid.md"
BEGIN, END = "<!-- generated: {} -->", "<!-- end -->"


def tables() -> dict[str, str]:
    """Every generated part of the page by its name."""
    parts = {part: "\n".join(_kinds(part, kinds, kinds.base)).rstrip() for part, kinds in KINDS.items()}
    parts["stop"] = "\n".join(_fields(Stop))
    parts["record"] = "\n".join(_fields(Record))
    parts["tracking"] = "\n".join(_fields(Tracking))
    parts["resources"] = "\n".join(_fields(Resources))
    parts["figures"] = "\n".join(_kinds("NAME", FIGURES, Figure)).rstrip()
    parts["claims"] = "\n".join(_kinds("NAME", CLAIMS, Claim)).rstrip()
    rows = [f"| `{m.shown}` | {_plain(m.summary)} |" for m in measures.MEASURES]
    parts["measures"] = "\n".join(["| name | what it is |", "|---|---|", *rows])
    return parts


def fill(page: str) -> str:
    """``page`` with its generated parts made anew. Raises `KeyError` for a part that does not exist."""
    parts = tables()

    def replace(found: re.Match[str]) -> str:
        return f"{BEGIN.format(found[1])}\n{parts[found[1]]}\n{END}"

    return re.sub(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", replace, page, flags=re.DOTALL)


def _kinds(part: str, kinds: Mapping[str, Any], base: type[Section]) -> Iterator[str]:
    """Yield the keys that all kinds take, their ``base``'s, then for each kind what it is, an example, and its own keys."""
    common = {"kind"} | set(base.model_fields)
    shared = [field for field in _properties(base) if field[0] != "kind"]
    if shared:
        yield f"{_summary(base)} All kinds take:"
        yield ""
        yield from _table(shared)
        yield ""
    for kind, model in kinds.items():
        yield f"**`{kind}`**: {_summary(model)}"
        yield ""
        yield from ("```yaml", f"{part}: {model.example}", "```")
        yield ""
        if own := [field for field in _properties(model) if field[0] not in common]:
            yield from _table(own)
            yield ""


def _summary(model: type[Section]) -> str:
    return _plain(" ".join((model.__doc__ or "").split()).replace("``", "`"))


def _plain(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|")


def _fields(model: type[Section]) -> Iterator[str]:
    yield from _table(_properties(model))


def _table(fields: Sequence[tuple[str, dict[str, Any], bool]]) -> Iterator[str]:
    yield "| key | value | default |"
    yield "|---|---|---|"
    for name, schema, required in fields:
        default = "required" if required else _default(schema)
        yield f"| `{name}` | {_type(schema)} | {default} |"


def _properties(model: type[Section]) -> list[tuple[str, dict[str, Any], bool]]:
    schema = inlined(model)
    return [(name, field, name in schema.get("required", ())) for name, field in schema["properties"].items()]


def _default(schema: dict[str, Any]) -> str:
    value = schema.get("default")
    return "none" if value is None else {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(option) for option in schema["anyOf"]))
    match schema.get("type"):
        case "array":
            inner, space, bound = (_type(schema["items"]) if "items" in schema else "value").partition(" ≥ ")
            return f"list of {inner.replace('list', 'lists', 1) if inner.startswith('list') else f'{inner}s'}{space}{bound}"
        case "object":
            return "{" + ", ".join(schema.get("properties", {})) + "}"
        case kind:
            words = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
            return words.get(str(kind), "value") + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    if "exclusiveMinimum" in schema:
        return f" > {schema['exclusiveMinimum']:g}"
    if "minimum" in schema and "exclusiveMaximum" in schema and schema["exclusiveMaximum"] < 2:
        return f" in [{schema['minimum']:g}, {schema['exclusiveMaximum']:g})"
    return f" ≥ {schema['minimum']:g}" if "minimum" in schema else ""


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text()))
