"""The JSON Schema: up to date, true of every shipped grid, and sharp enough to catch typos."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from orchestrator.grid.schema import json_schema, whole_schema
from orchestrator.grid.schema_parts import as_text
from orchestrator.grid.source import parse

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = json.loads((CONFIGS / "grid.schema.json").read_text())
SCHEMA = jsonschema.Draft202012Validator(SHIPPED)


def test_is_a_valid_schema():
    jsonschema.Draft202012Validator.check_schema(SHIPPED)


def test_the_shipped_file_is_up_to_date():
    assert json_schema() == SHIPPED, "run: orchestrate schema > configs/grid.schema.json"


def expanded(schema, top):
    """A schema in which each reference is what it refers to."""
    if isinstance(schema, list):
        return [expanded(part, top) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: expanded(value, top) for key, value in schema.items() if key not in ("$ref", "$defs")}
    if "$ref" not in schema:
        return found
    target = top
    for part in schema["$ref"].removeprefix("#/").split("/"):
        # What is referred to may be a reference itself.
        target = target[part]
    target = expanded(target, top)
    return {**found, "what is meant": target} if found else target


def test_what_is_written_once_means_what_it_meant():
    whole, short = whole_schema(), SHIPPED
    assert expanded(short, short) == expanded(whole, whole)
    assert len(as_text(short)) < 0.65 * len(as_text(whole))
    assert json.loads(as_text(short)) == short


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_grid_is_valid_and_names_the_schema(path):
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=grid.schema.json")
    SCHEMA.validate(parse(text, path.name).data)


@pytest.mark.parametrize(
    "text",
    [
        "name: x\nfixd: {}",
        "name: x\nfixed: {optimizer: {kind: gd, lrr: 1}}",
        "name: x\nfixed: {optimizer.lr: fast}",
        "name: x\nfixed: {optimizer: {kind: sgd}}",
        "name: x\ngrid: {optimizer.lr: 0.1}",
        "name: x\ngrid: {optimizer.lrr: [0.1]}",
        "name: x\ngrid: {factorization.depth: []}",
        "name: x\nrandom: {samples: 3, optimizer.lr: {normal: [0, 1]}}",
        "name: x\nrecord: {measures: [nuclaer]}",
        "name: x\nseeds: 0",
        "name: x\nseeds: 0...9",
        "name: x\ngrid: {optimizer.lr: {linspace: [0, 1]}}",
        "name: x\ncases: [{grid: {optimizer.lrr: [1]}}]",
        "name: x\nfixed: {factorization: {depth: 0}}",
        "name: x\ngrid: {factorization.depth: [2, 0]}",
        "name: x\nfixed: {factorization.depth: 1001}",
        "name: x\nfixed: {problem.shape: []}",
        "name: x\nfixed: {stop.check_every: 0}",
        "name: x\nrecord: {points: -1}",
        "name: x\nrecord: {steps: []}",
        "name: x\nfixed: {seed: -1}",
        "name: x\nseeds: [-1]",
        "name: x\nzip: [{optimizer.lrr: [1]}]",
        "name: x\nexclude: [3]",
        "name: x\nexclude: [{}]",
        "name: x\nexclude: [{factorization.depth: [deep]}]",
        "name: x\nfixed: {problem: {target.rnk: 2}}",
        "name: x\nfixed: {optimizer.lr: null}",
        "fixed: {}",
    ],
)
def test_mistakes_are_caught(text):
    assert list(SCHEMA.iter_errors(parse(text, "x").data))


@pytest.mark.parametrize(
    "text",
    [
        "name: x\nfixed: {optimizer: {lr: '= 0.1 / factorization.depth'}, problem.seed: = seed}",
        "name: x\ngrid: {optimizer.lr: [= 0.1 / factorization.depth, 0.1]}",
        "name: x\nzip: [{optimizer.lr: [0.1, 0.2]}, {init.scale: {logspace: [1e-3, 1, 2]}}]",
        "name: x\nrandom: {samples: 2, seed: 0, optimizer.lr: {uniform: [0, 1]}}",
        "name: x\nexclude: [factorization.depth == 4 and optimizer.lr > 0.1, {factorization.depth: 3}]",
        "name: x\nexclude: [{factorization.depth: [3, 4], optimizer: {lr: [0.1, 0.2], kind: [gd, adam]}}, {stop.steps: 3..5}]",
        "name: x\nexclude: [{problem.target.rank: [1, 3..5], problem: {target: {frobenius: [1, 2]}, shape: [[3, 3], [4, 4]]}}]",
        "name: x\ngrid: {problem.noise: [null, {std: 0.1}], init: [null, {kind: identity, scale: null}]}",
        "name: x\ncases: [{optimizer: {lr: null}, problem.target.rank: null, loss: null}]",
        "name: x\nfixed: {problem: {target.rank: 2, noise.std: 0}}",
        "name: x\ngrid: {problem: [{target.rank: 2}]}",
    ],
)
def test_what_the_language_has_is_valid(text):
    SCHEMA.validate(parse(text, "x").data)


def test_every_bound_is_a_word_of_the_schema():
    words = {"ge", "gt", "le", "lt"}

    def schemas(value):
        if isinstance(value, dict):
            yield value
            for inner in value.values():
                yield from schemas(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from schemas(inner)

    for schema in schemas(SHIPPED):
        assert not words & schema.keys()
        assert schema.get("type") != "array" or not {"minLength", "maxLength"} & schema.keys()
