"""What there is to say of every word of a grid file: ``orchestrate help stop.check_every``, and the tables of the guide.

It all comes from the models that check grid files: their docstrings, those of their fields, and their examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.grid.claims import CLAIMS
from orchestrator.grid.docstrings import field_words, plain, summary
from orchestrator.grid.figures import FIGURES
from orchestrator.grid.model import EXAMPLES, TOP, Record, Resources, Tracking
from orchestrator.grid.questions import Question
from orchestrator.grid.quoting import nearest
from orchestrator.grid.schema import inlined
from orchestrator.grid.sections import KINDED
from orchestrator.grid.words import SAMPLES, WORDS
from orchestrator.grid.written import inner_sections
from workloads import measures
from workloads.kinds import Kind, Registry
from workloads.section import Section
from workloads.stop import Stop

SECTIONS: dict[str, tuple[type[Section], str]] = {
    "stop": (Stop, "{loss: 1e-6, check_every: 100, consecutive: 3, steps: 100_000}"),
    "record": (Record, EXAMPLES["record"]),
    "tracking": (Tracking, EXAMPLES["tracking"]),
    "resources": (Resources, EXAMPLES["resources"]),
}
"""Sections of one kind, each with an example."""
QUESTIONS: Mapping[str, Mapping[str, type[Question]]] = {"figures": FIGURES, "claims": CLAIMS}
_SCALARS = {
    "dtype": ("float64 or float32", "What the factors and all arithmetic are in.", "float64", "dtype: float32"),
    "seed": ("whole number ≥ 0", "What the start is drawn by; `seeds` sets it for many trials.", "0", "seed: 7"),
}


@dataclass(frozen=True)
class Field:
    """A key of a section: what it is, what it may be, and what it is unless given."""

    name: str
    words: str
    values: str
    default: str


@dataclass(frozen=True)
class Topic:
    """What there is to say of ``name``: its ``head`` in a line, what it is in ``words``, its keys, what else there is, and an example."""

    name: str
    head: str
    words: str
    fields: tuple[Field, ...] = ()
    others: Mapping[str, str] | None = None
    example: str = ""


@cache
def fields(model: type[Section], without: type[Section] | None = None) -> tuple[Field, ...]:
    """Return the keys of a section, but for its kind, those that it has from ``without`` and those that it refuses."""
    schema = inlined(model)
    left_out = {"kind", *(without.model_fields if without else ()), *(model.refuses if issubclass(model, Kind) else ())}
    required = schema.get("required", ())
    words = field_words(model)
    return tuple(
        Field(name, words.get(name, ""), values(field), "required" if name in required else _default(field))
        for name, field in schema["properties"].items()
        if name not in left_out
    )


def values(schema: Mapping[str, Any]) -> str:
    """Return in words what a schema allows."""
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(values(option) for option in schema["anyOf"]))
    match schema.get("type"):
        case "array":
            inner, space, bound = (values(schema["items"]) if "items" in schema else "value").partition(" ≥ ")
            return f"list of {inner.replace('list', 'lists', 1) if inner.startswith('list') else f'{inner}s'}{space}{bound}"
        case "object":
            return "{" + ", ".join(schema.get("properties", {})) + "}"
        case kind:
            words = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
            return words.get(str(kind), "value") + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    if "exclusiveMinimum" in schema:
        return f" > {schema['exclusiveMinimum']:g}"
    if "minimum" in schema and "exclusiveMaximum" in schema and schema["exclusiveMaximum"] < 2:
        return f" in [{schema['minimum']:g}, {schema['exclusiveMaximum']:g})"
    return f" ≥ {schema['minimum']:g}" if "minimum" in schema else ""


def _default(schema: Mapping[str, Any]) -> str:
    value = schema.get("default")
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def topics(asked: str) -> list[Topic]:
    """Return what there is to say of a key, a kind or a measure, by any of the names that it goes by. Raises `UsageError`."""
    wanted = asked.strip().removeprefix("fixed.").removeprefix("grid.")
    # As expressions have it, where loss is a measure.
    wanted = "loss.kind" if wanted == "spec.loss" else wanted
    found = [topic for topic in all_topics() if wanted in _names(topic)]
    if not found and (measure := measures.find(wanted)) is not None:
        found = [_measure(measure[0])]
    if not found:
        known = sorted({name for topic in all_topics() for name in _names(topic)})
        # Part of a name is what people remember: schatten.
        near = [name for name in known if wanted and wanted.lower() in name.lower()]
        if len({name.rpartition(".")[2] for name in near}) == 1:
            return topics(near[0])
        hint = f"; there are {', '.join(near[:10])}" if near else nearest(wanted, known)
        raise UsageError(f"there is no {wanted} in a grid file{hint if len(hint) < 400 else '; `orchestrate help` lists what there is'}")
    return found


def _names(topic: Topic) -> set[str]:
    """Return the names that a topic goes by: figures.threshold.of, threshold.of, and of alone."""
    return (
        {topic.name, topic.name.partition(".")[2] or topic.name, topic.name.rpartition(".")[2]}
        if not topic.name.startswith("schatten")
        else {topic.name, "schatten"}
    )


def all_topics() -> Iterator[Topic]:
    """Yield every topic."""
    for name, words in TOP.items():
        if name not in SECTIONS:
            others = {kind: summary(model) for kind, model in QUESTIONS.get(name, {}).items()}
            yield Topic(name, "top of the file", words, (), others, f"{name}: {EXAMPLES[name]}")
    for part, (model, example) in SECTIONS.items():
        yield Topic(part, "section", summary(model), fields(model), None, f"{part}: {example}")
        yield from _keys(part, model, f"{part}: {example}")
    for name, (what, words, default, example) in _SCALARS.items():
        yield Topic(name, f"{what}, default {default}", words, (), None, example)
    for part, kinds in KINDED.items():
        yield from _part(part, kinds)
    for top, table in QUESTIONS.items():
        for kind, model in table.items():
            example = f"{top}: {{NAME: {model.example}}}"
            yield Topic(f"{top}.{kind}", f"kind of {top}", summary(model), fields(model), None, example)
            yield from _keys(f"{top}.{kind}", model, example)
        yield Topic(
            f"{top}.kind", "what it is, required", f"Which of the kinds of {top}.", (), {k: summary(m) for k, m in table.items()}, example
        )
    for name, (head, words, example) in WORDS.items():
        yield Topic(name, head, words, (), None, example)
    yield from (_measure(measure) for measure in measures.MEASURES)


def _part(part: str, kinds: Registry[Kind]) -> Iterator[Topic]:
    """Yield the topics of a section that comes in kinds: itself, its kinds, and the keys of each."""
    examples = {kind: f"{part}: {model.example}" for kind, model in kinds.items()}
    others = {kind: summary(model) for kind, model in kinds.items()}
    yield Topic(part, "section with a kind", summary(kinds.base), fields(kinds.base), others, next(iter(examples.values())))
    yield Topic(f"{part}.kind", "what it is, required", f"Which of the kinds of {part}.", (), others, next(iter(examples.values())))
    yield from _keys(part, kinds.base, *examples.values())
    for kind, model in kinds.items():
        yield Topic(f"{part}.{kind}", f"{part}.kind", summary(model), fields(model), None, examples[kind])
        yield from _keys(part, model, examples[kind], without=kinds.base, beside=f", with {part}.kind {kind}")


def _keys(part: str, model: type[Section], *examples: str, without: type[Section] | None = None, beside: str = "") -> Iterator[Topic]:
    """Yield the keys of a section, each with the first of ``examples`` that has it."""
    for field in fields(model, without):
        head = f"{field.values}, {'required' if field.default == 'required' else f'default {field.default}'}{beside}"
        yield Topic(f"{part}.{field.name}", head, field.words, (), None, _example(field, part, examples))
        for inner in inner_sections(model, field.name):
            yield from _keys(f"{part}.{field.name}", inner, *examples)


def _example(field: Field, part: str, examples: Sequence[str]) -> str:
    """Return the first of a section's examples that has a key; else the first with the key added, or, where it has a dotted one, that."""
    whole = re.compile(rf"\b{re.escape(field.name)}:")
    if found := next((text for text in examples if whole.search(text)), None):
        return found
    sample = SAMPLES.get(field.name) or (field.default if field.default not in ("none", "required", "[]") else "...")
    if part.partition(".")[0] not in QUESTIONS:
        return f"{part}.{field.name}: {sample}"
    body = examples[0].rstrip("}")
    return f"{body}, {field.name}: {sample}{'}' * (len(examples[0]) - len(body))}"


def _measure(measure: measures.Measure) -> Topic:
    when = "at the end of a trial only" if measure.final else "at every recorded step"
    return Topic(measure.shown, f"measure, {when}", plain(measure.summary), (), None, f"record: {{measures: [{measure.shown}]}}")


def contents() -> dict[str, list[str]]:
    """Return the names of all topics, by where they belong."""
    found: dict[str, list[str]] = {"top of the file": list(TOP)}
    found["stop, dtype, seed"] = [*(f"stop.{field.name}" for field in fields(Stop)), *_SCALARS]
    found |= {f"{part} kinds": list(kinds) for part, kinds in KINDED.items()}
    found |= {"figures": list(FIGURES), "claims": list(CLAIMS), "measures": [measure.shown for measure in measures.MEASURES]}
    return found
