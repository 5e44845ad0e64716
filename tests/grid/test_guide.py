"""`orchestrate help`: every word of a grid file has something to say, found by the names that people use for it."""

from __future__ import annotations

import pytest

from orchestrator.errors import UsageError
from orchestrator.grid import guide, parse_grid
from orchestrator.grid.claims import CLAIMS
from orchestrator.grid.docstrings import field_words
from orchestrator.grid.model import EXAMPLES, TOP, Record, Resources, Tracking
from orchestrator.grid.source import parse_value
from orchestrator.grid.written import spec_keys
from workloads.stop import Stop
from workloads.trial import KINDS

MODELS = [model for kinds in KINDS.values() for model in kinds.values()] + [Stop, Record, Resources, Tracking, *CLAIMS.values()]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_says_what_it_is(model):
    missing = [name for name in model.model_fields if name != "kind" and not field_words(model).get(name)]
    assert not missing, f"put a docstring below {missing} of {model.__qualname__}"


@pytest.mark.parametrize("key", sorted(spec_keys()))
def test_every_key_of_a_spec_is_explained(key):
    if key.endswith(".kind"):
        return
    assert all(topic.words and topic.example for topic in guide.topics(key))


@pytest.mark.parametrize("name", sorted({*TOP, *KINDS, "stop"}))
def test_examples_are_valid(name):
    """As YAML, and, of sections, as what they are."""
    for topic in guide.topics(name):
        key, _, value = topic.example.partition(": ")
        parsed = parse_value(value, "example")
        if key in KINDS:
            KINDS[key][parsed["kind"]].model_validate(
                {k: tuple(v) if isinstance(v, list) else v for k, v in parsed.items()} if key != "init" else parsed
            )
        assert parsed is not None


def test_the_examples_make_a_grid_together():
    fixed = (
        "fixed: {problem: {kind: matrix_completion, shape: [5, 5], target: {rank: 1}, observed: 12}, init.kind: gaussian, "
        "optimizer.kind: gd, optimizer.lr: 0.01, factorization.kind: deep_matrix, stop: {steps: 20_000, loss: 1e-6}}"
    )
    keys = ("name", "grid", "seeds", "exclude", "record", "tracking", "resources", "figures")
    text = "\n".join([fixed, *(f"{key}: {EXAMPLES[key]}" for key in keys)])
    loaded = parse_grid(text, overrides=["optimizer.lr=[0.01, 0.2]"])
    assert len(loaded.trials) == 5 * 10, "of depths 2 to 4 one is left, and of two step sizes one"


@pytest.mark.parametrize(
    ("word", "name", "says"),
    [
        ("stop.check_every", "stop.check_every", "multiples of so many steps"),
        ("check_every", "stop.check_every", "multiples of so many steps"),
        ("schatten", "schatten_0.5", "quasi-"),
        ("schatten_0.7", "schatten_0.5", "quasi-"),
        ("gaussian", "init.gaussian", "Independent normal entries"),
        ("deep_matrix", "factorization.deep_matrix", "W_L ... W_1"),
        ("problem.target.rank", "problem.target.rank", "CP rank"),
        ("grid.optimizer.lr", "optimizer.lr", "Step size"),
        ("medians", "figures.medians", "axis"),
        ("bound", "claims.bound", "every recorded step"),
        ("rank", "rank", "numerical"),
        ("mse", "loss.mse", "mean"),
        ("spec.loss", "loss.kind", "Half the sum"),
        ("seeds", "seeds", "range"),
        ("dtype", "dtype", "arithmetic"),
        ("figures.medians.bars", "figures.medians.bars", ""),
        ("threshold.of", "figures.threshold.of", "smallest value"),
        ("band", "figures.trajectories.band", ""),
        ("optimizer.kind", "optimizer.kind", "Adam"),
        ("figures.kind", "figures.kind", "map of rectangles"),
        ("random.samples", "random.samples", "drawn"),
        ("linspace", "linspace", "evenly"),
        ("rate", "rate", "share of trials"),
        ("outcome", "outcome", "diverged"),
    ],
)
def test_is_found_by_name(word, name, says):
    found = guide.topics(word)
    assert name in [topic.name for topic in found]
    assert any(says in " ".join([topic.words, *(topic.others or {}).values()]) for topic in found)


def test_the_example_of_a_key_has_the_key():
    for topic in guide.all_topics():
        if "default" in topic.head or "required" in topic.head:
            key = topic.name.rpartition(".")[2]
            assert f"{key}:" in topic.example, topic
            assert "..." not in topic.example, f"put a value of {key} into SAMPLES of orchestrator/grid/words.py"
            parse_value(f"{{{topic.example}}}", "example")


@pytest.mark.parametrize(("word", "message"), [("nuclaer", "did you mean nuclear?"), ("zzz", "`orchestrate help` lists what there is")])
def test_what_there_is_not(word, message):
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        guide.topics(word)


def test_a_kind_is_listed_with_no_key_that_it_refuses():
    (flow,) = guide.topics("gradient_flow")
    assert [field.name for field in flow.fields] == ["lr", "rtol", "atol"]
    assert "clip" in [field.name for field in guide.topics("momentum")[0].fields]
