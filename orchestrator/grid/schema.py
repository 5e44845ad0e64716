"""The JSON Schema of grid files, for editors: generated from the models that check them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.grid.axes import BLOCKS
from orchestrator.grid.claims import CLAIMS
from orchestrator.grid.docstrings import field_words
from orchestrator.grid.figures import FIGURES
from orchestrator.grid.model import SCALARS, TOP, Record, Resources, Tracking
from orchestrator.grid.questions import Question
from orchestrator.grid.schema_parts import with_parts
from orchestrator.grid.sections import KINDED, scalar_type
from orchestrator.grid.spreads import DISTRIBUTIONS, RANGE, SPACES
from workloads import measures
from workloads.section import Section
from workloads.stop import Stop


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a grid file, in which nothing long stands twice."""
    return with_parts(whole_schema())


def whole_schema() -> dict[str, Any]:
    """Return the JSON Schema of a grid file as it follows from the models.

    It knows every key, nested and dotted, with its type, so that an editor completes and checks it. What depends on the kind chosen
    elsewhere, or on two keys at once, only the program itself checks.
    """
    defined = _leaves()
    leaves = {key: {"$ref": f"#/$defs/{key}"} for key in defined}
    spread = {"$ref": "#/$defs/spread"}
    points = {key: {"type": "array", "minItems": 1, "items": {"$ref": f"#/$defs/case/properties/{key}"}} for key in leaves}
    several = {key: {"anyOf": [schema, spread]} for key, schema in points.items()}
    drawn = {key: {"$ref": "#/$defs/distribution"} for key in leaves}
    record = inlined(Record)
    names = "|".join(f"(?:{m.pattern})" for m in measures.MEASURES)
    record["properties"]["measures"] = {"type": "array", "items": {"type": "string", "pattern": f"^(?:{names})$"}}
    whole = {"type": "integer", "minimum": 1}
    seed = {"type": "integer", "minimum": 0}
    together = {"type": "object", "additionalProperties": False, "properties": several}
    blocks = {
        "grid": together,
        "zip": {"anyOf": [together, {"type": "array", "items": together}]},
        "random": {"type": "object", "additionalProperties": False, "properties": {**drawn, "samples": whole, "seed": seed}},
    }
    properties: dict[str, Any] = {
        "name": {"type": "string", "minLength": 1, "maxLength": 100},
        "needs": _or_single({"type": "array", "items": {"type": "string", "minLength": 1}}),
        "fixed": {"$ref": "#/$defs/spec"},
        "cases": {"type": "array", "items": {"$ref": "#/$defs/case"}},
        **{name: {"$ref": f"#/$defs/{name}"} for name in BLOCKS},
        "seeds": {"anyOf": [whole, {"type": "array", "minItems": 1, "items": _scalar("seed")}, spread]},
        "exclude": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/left_out"}, {"type": "string", "minLength": 1}]}},
        "record": record,
        "tracking": inlined(Tracking),
        "resources": inlined(Resources),
        "figures": _named(FIGURES),
        "claims": _named(CLAIMS),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A grid of factorization trials",
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {key: {"description": TOP[key], **schema} for key, schema in properties.items()},
        "$defs": {**defined, **_definitions(defined), **blocks},
    }


def _definitions(defined: dict[str, Any]) -> dict[str, Any]:
    """Schemas that others refer to: a partial spec, a case, what is left out, a distribution, and many numbers written short."""
    references = {key: {"$ref": f"#/$defs/{key}"} for key in defined}
    spec = {"type": "object", "additionalProperties": False, "properties": references}
    # What is no section is referred to: the file would be twice as long.
    written = {key: schema if "properties" in schema else references[key] for key, schema in defined.items()}
    # A case, or a point of an axis, may take away what is set for the others.
    own = {name: {"$ref": f"#/$defs/{name}"} for name in BLOCKS}
    case = {**spec, "properties": {**{key: _or({"type": "null"}, schema, whole=True) for key, schema in written.items()}, **own}}
    # Of a list, any value is meant.
    left_out = {**spec, "minProperties": 1, "properties": {key: _or_any(schema) for key, schema in written.items()}}
    three = {"type": "array", "minItems": 3, "maxItems": 3, "items": {"type": "number"}}
    spread = {
        "anyOf": [
            {"type": "string", "pattern": f"^{RANGE.pattern}$"},
            {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "additionalProperties": False,
                "properties": dict.fromkeys(SPACES, three),
            },
        ]
    }
    distribution = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": {name: {"type": "array", "minItems": 1} for name in DISTRIBUTIONS},
    }
    derived = {"type": "string", "pattern": r"^\s*=", "description": "an expression over the keys of the trial"}
    return {"spec": spec, "case": case, "left_out": left_out, "distribution": distribution, "spread": spread, "derived": derived}


def _named(kinds: Mapping[str, type[Question]]) -> dict[str, Any]:
    """Return a mapping from names to one of several kinds of questions."""
    options = []
    for kind, model in kinds.items():
        schema = inlined(model)
        # Everywhere that a list is meant, a single item may stand for it.
        fields = {key: _or_single(field) for key, field in schema["properties"].items() if key != "kind"}
        required = ["kind", *(key for key in schema.get("required", ()) if key != "kind")]
        fields = {"kind": {"const": kind}, **fields}
        options.append({"type": "object", "additionalProperties": False, "required": required, "properties": fields})
    return {"type": "object", "additionalProperties": {"anyOf": options}}


def _or_single(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") != "array" or "items" not in schema:
        return schema
    rest = {key: schema[key] for key in ("default",) if key in schema}
    return {**rest, "anyOf": [{k: v for k, v in schema.items() if k != "default"}, schema["items"]]}


def _scalar(part: str) -> Any:
    return _clean(scalar_type(part).json_schema(), {})


def _or_derived(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that an expression meets, too; of a mapping, each of its values may be one."""
    if schema.get("type") == "string" and "pattern" not in schema:
        return schema
    return _or(_DERIVED, schema)


def _or(other: dict[str, Any], schema: dict[str, Any], *, whole: bool = False) -> dict[str, Any]:
    """Return a schema with another option; of a mapping, its values have it, and itself if it is to be so as a ``whole``."""
    if "properties" in schema:
        inner = {**schema, "properties": {key: _or(other, field, whole=whole) for key, field in schema["properties"].items()}}
        return {"anyOf": [inner, other]} if whole else inner
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], other]}
    return {"anyOf": [schema, other]}


def _or_any(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that a list or a range of such values meets, too; of a mapping, each of its values may be one."""
    if "properties" in schema:
        return {**schema, "properties": {key: _or_any(field) for key, field in schema["properties"].items()}}
    spread = {"$ref": "#/$defs/spread"}
    return {"anyOf": [schema, spread, {"type": "array", "minItems": 1, "items": {"anyOf": [schema, spread]}}]}


_DERIVED = {"$ref": "#/$defs/derived"}


def _leaves() -> dict[str, Any]:
    """Return a schema for every part of a spec, and for every dotted key below it."""
    out: dict[str, Any] = {part: _or_derived(_scalar(part)) for part in SCALARS}
    models: dict[str, list[type[Section]]] = {part: list(kinds.values()) for part, kinds in KINDED.items()}
    models["stop"] = [Stop]
    for part, kinds in models.items():
        merged: dict[str, list[Any]] = {}
        for model in kinds:
            for key, schema in inlined(model)["properties"].items():
                known = merged.setdefault(key, [])
                if schema not in known:
                    known.append(schema)
        fields = {key: _either(key, found) for key, found in merged.items()}
        fields = {key: field if key == "kind" else _or_derived(_partial(field)) for key, field in fields.items()}
        # A case may change one key of a section, so nothing is required here.
        inner = {f"{key}.{name}": s for key, schema in fields.items() for name, s in schema.get("properties", {}).items()}
        # Dotted keys may stand within a section, too.
        out[part] = {"type": "object", "additionalProperties": False, "properties": {**fields, **inner}}
        out |= {f"{part}.{key}": schema for key, schema in {**fields, **inner}.items()}
    # Its kind alone, or that and its keys.
    out["loss"] = {"anyOf": [out["loss.kind"], out["loss"], _DERIVED]}
    return out


def _partial(schema: Any) -> Any:
    """Return a schema that requires nothing: an axis may add a key to a mapping within a section, too."""
    if isinstance(schema, list):
        return [_partial(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _partial(value) for key, value in schema.items() if key != "required" or not isinstance(value, list)}


def _either(key: str, found: list[Any]) -> Any:
    if key == "kind":
        return {"enum": [schema["const"] for schema in found]}
    return found[0] if len(found) == 1 else {"anyOf": found}


def inlined(model: type[Section]) -> dict[str, Any]:
    """Return a model's own schema with its inner models written in place, what its fields are in words, and no titles and nulls."""
    schema = model.model_json_schema(ref_template="{model}")
    inner = schema.pop("$defs", {})
    inner |= {key: {"type": "string"} for key in ("FileRef", "Reference")}
    cleaned = _clean(schema, inner)
    assert isinstance(cleaned, dict)
    for name, words in field_words(model).items():
        cleaned["properties"][name] = {"description": words, **cleaned["properties"][name]}
    return cleaned


def _clean(value: Any, inner: dict[str, Any]) -> Any:
    """Without titles and references, and without the null that stands for a field left out; inside a tuple null is a value."""
    if isinstance(value, dict) and "prefixItems" in value:
        rest = _clean({key: part for key, part in value.items() if key != "prefixItems"}, inner)
        return {**rest, "prefixItems": [{"anyOf": [_clean(o, inner) for o in item.get("anyOf", [item])]} for item in value["prefixItems"]]}
    if isinstance(value, list):
        return [_clean(item, inner) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _clean(inner[value["$ref"]], inner)
    if "anyOf" in value:
        kept = [_clean(option, inner) for option in value["anyOf"] if option != {"type": "null"}]
        rest = {k: v for k, v in value.items() if k not in ("anyOf", "title", "default") or (k == "default" and v is not None)}
        return {**rest, **kept[0]} if len(kept) == 1 else {**rest, "anyOf": kept}
    return {
        _keyword(k, value): ({n: _clean(v, inner) for n, v in val.items()} if k == "properties" else _clean(val, inner))
        for k, val in value.items()
        if k != "title"
    }


_KEYWORDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_ITEMS = {"minLength": "minItems", "maxLength": "maxItems"}


def _keyword(name: str, schema: Mapping[str, Any]) -> str:
    """Return JSON Schema's word for a bound: pydantic leaves its own where a value is looked at before it is checked."""
    return _ITEMS.get(name, name) if schema.get("type") == "array" else _KEYWORDS.get(name, name)
