"""Every kind against its reference, and in all that is done with kinds: engines, memory, pausing, planning, grids, schema, documents."""

from __future__ import annotations

import importlib
import itertools
import json
import pickle
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from orchestrator.analysis.claims import CHECKS
from orchestrator.analysis.figures import PANELS
from orchestrator.grid import parse_grid
from orchestrator.grid.claims import CLAIMS
from orchestrator.grid.figures import FIGURES
from orchestrator.grid.source import parse
from orchestrator.planning.pack import Crew
from orchestrator.planning.plan import make_plan
from tests.contract import references
from tests.contract.references import FACTORIZATIONS, FUNCTION, INITS, LOSSES, OPTIMIZERS, PROBLEMS, SHAPES, TRAINED, beside, pairs, spec
from tests.specs import trials
from tests.workloads import oracle, test_measures
from tests.workloads.test_engines import advance, lanes_of, product
from workloads.engines.base import create
from workloads.engines.choice import chosen, why_not_fused
from workloads.losses import LOSSES as LOSS_KINDS
from workloads.measures import MEASURES
from workloads.training.loop import train
from workloads.training.policy import Policy
from workloads.training.recording import Recording
from workloads.training.results import Checkpoint, Finished, Request
from workloads.trial import KINDS

ROOT = Path(__file__).parents[2]
SCIENCE = (ROOT / "docs" / "science.md").read_text()
GUIDE = (ROOT / "docs" / "grid.md").read_text()
REFERENCES = {"problem": PROBLEMS, "factorization": FACTORIZATIONS, "init": INITS, "optimizer": OPTIMIZERS, "loss": LOSSES}
REGISTRIES = {**KINDS, "loss": LOSS_KINDS}
ROWS = [(part, kind) for part, kinds in REGISTRIES.items() for kind in kinds]
STEPS = 60
FLOW_STEPS = 20
"""Of what looks at a gradient seven times in a step. By then it has refused a step and made others longer."""
# That it is what the models say is tested in tests/grid/test_schema.py.
SCHEMA = jsonschema.Draft202012Validator(json.loads((ROOT / "configs" / "grid.schema.json").read_text()))


@pytest.mark.parametrize(("part", "kind"), ROWS)
def test_has_a_reference(part, kind):
    assert kind in REFERENCES[part], (
        f"{part}.kind {kind} is held to nothing: add a row for it to {part.upper().replace('SS', 'SSE')}S in tests/contract/references.py, "
        "with the same thing from a library, a closed form or a plain loop"
    )


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.shown)
def test_measure_has_a_reference(measure):
    assert measure.shown in test_measures.HELD.keys() | test_measures.TESTED_APART.keys(), (
        f"measure {measure.shown} is held to nothing: add a row for it to HELD in tests/workloads/test_measures.py, "
        "with the same number from a library or a closed form"
    )


@pytest.mark.parametrize("name", [*(kind for _, kind in ROWS if kind != "file"), *(m.compute.__name__ for m in MEASURES)])
def test_is_in_the_science(name):
    assert re.search(rf"^\|.*`{name}[`_]", SCIENCE, re.MULTILINE), (
        f"{name} is not in docs/science.md: add a row with its formula, its source and what it is held to"
    )


@pytest.mark.parametrize(("kind", "row"), [(kind, row) for kind, row in FACTORIZATIONS.items() if row.product is None])
def test_what_is_solved_is_held_by_a_test(kind, row):
    module, _, name = row.tested_by.rpartition(".")
    assert hasattr(importlib.import_module(module), name), f"{kind} has no test {row.tested_by}"


@pytest.mark.parametrize(("kind", "row"), [(kind, row) for kind, row in FACTORIZATIONS.items() if FUNCTION not in row.keys])
def test_refuses_shapes_that_it_is_not_for(kind, row):
    """By `conflicts`, under the key that stops all further checks."""
    others = [shape for order, shape in SHAPES.items() if order not in row.keys or row.square]
    keys = next(iter(row.keys.values()))
    for shape in others:
        factorization = KINDS["factorization"][kind].model_validate(keys)
        found = dict(factorization.conflicts(shape))
        assert "factorization.kind" in found, f"{kind} takes shape {shape}, for which it has no reference: let its conflicts refuse it"


@pytest.mark.parametrize(("part", "kind"), ROWS)
def test_is_in_the_guide(part, kind):
    assert f"`{kind}`" in GUIDE, f"{part}.kind {kind} is not in docs/grid.md: python -m orchestrator.grid.reference, or name it there"


@pytest.mark.parametrize(("part", "kind"), [row for row in ROWS if row[0] != "loss"])
def test_has_an_example(part, kind):
    model = REGISTRIES[part][kind]
    assert model.example, f"{part}.kind {kind} has no example: give its class one, as it may stand in a grid file"
    read = REGISTRIES[part].read(parse(f"x: {model.example}", "example").data["x"])
    assert type(read) is model


@pytest.mark.parametrize(("name", "kind"), [*FIGURES.items(), *CLAIMS.items()])
def test_has_an_example_of_a_question(name, kind):
    question = kind.model_validate(parse(f"x: {kind.example}", "example").data["x"])
    assert question.kind == name
    assert not list(question.own_conflicts())


@pytest.mark.parametrize("references", REFERENCES.items(), ids=lambda pair: pair[0])
def test_every_reference_is_of_a_kind(references):
    part, rows = references
    assert rows.keys() <= REGISTRIES[part].keys()


@pytest.mark.parametrize(("problem", "factorization", "optimizer", "loss"), TRAINED)
def test_every_engine_trains_as_the_plain_loop(problem, factorization, optimizer, loss):
    one = spec(problem, factorization, optimizer, loss)
    steps = FLOW_STEPS if optimizer == "gradient_flow" else STEPS
    truth = oracle.train(one, steps)
    assert truth.losses[-1] < truth.losses[0]
    for engine in ("autograd", "batched", "fused"):
        if engine == "fused" and why_not_fused(one):
            continue
        lanes = lanes_of([beside(one), one])
        # It trains lanes one after the other, and nobody looks at the first.
        lanes.active[0] = engine != "autograd"
        advance(create(engine), lanes, steps)
        assert lanes.loss[1] == pytest.approx(truth.losses[-1], rel=1e-9), engine
        np.testing.assert_allclose(product(lanes)[1], truth.product, rtol=1e-8, atol=1e-12, err_msg=engine)


def ended(events):
    return {result.trial_id: result for event in events if isinstance(event, Finished) for result in event.results}


@pytest.mark.parametrize(("problem", "factorization"), pairs())
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_goes_on_from_a_checkpoint_with_the_same_bits(problem, factorization, optimizer):
    if FACTORIZATIONS[factorization].product is None and optimizer != "gd":
        pytest.skip("it is solved, by no optimizer")
    policy = Policy(call_seconds=0.0, steps=16)
    specs = [spec(problem, factorization, optimizer, seed=n) for n in range(3)]
    engine, recording = chosen("auto", specs), Recording(("frobenius",), points=5)
    whole = ended(train(trials(specs), recording, create(engine), policy=policy))
    asked = itertools.chain([None, Request.STOP], itertools.repeat(None))
    events = list(train(trials(specs), recording, create(engine), asked=lambda: next(asked), policy=policy))
    parts = ended(events)
    # A solver may be through with its first step.
    left = [t for event in events if isinstance(event, Checkpoint) for t in event.trials if t.trial_id not in parts]
    assert left or one_step(factorization)
    parts |= ended(train(pickle.loads(pickle.dumps(left)), recording, create(engine), policy=policy))
    assert parts.keys() == whole.keys()
    for key, result in parts.items():
        assert result.steps == whole[key].steps
        for name, factor in result.factors.items():
            np.testing.assert_array_equal(factor, whole[key].factors[name])


@pytest.mark.parametrize(("problem", "factorization"), pairs())
def test_is_planned_and_sent_to_workers(problem, factorization):
    specs = [spec(problem, factorization, seed=n) for n in range(5)]
    (pack,) = make_plan(trials(specs), Recording(), "auto", [Crew(1)]).packs
    assert 0 < pack.seconds < 10
    assert pack.bytes > 0
    assert pickle.loads(pickle.dumps(specs[0])) == specs[0]
    assert len({one.canonical() for one in specs}) == (5 if specs[0].seeded else 1)
    assert [*specs[0].factor_shapes] == [*run_names(specs[0])]


def one_step(factorization):
    return factorization == "min_frobenius"


def run_names(one):
    (result,) = ended(train(trials([one]), Recording(points=1), create(chosen("auto", [one])))).values()
    return result.factors


@pytest.mark.parametrize(("problem", "factorization"), pairs())
@pytest.mark.parametrize("init", INITS)
def test_starts_as_its_init_says(problem, factorization, init, tmp_path):
    one = spec(problem, factorization)
    if one.init is None:
        pytest.skip("it starts from zero")
    row = INITS[init]
    if row.matrices_only and any(len(shape) != 2 for shape in one.factor_shapes.values()):
        with pytest.raises(ValueError, match=r"init\.kind"):
            spec(problem, factorization, init={"kind": init, **row.keys})
        return
    started = {key: np.arange(np.prod(shape)).reshape(shape) / 7 for key, shape in one.factor_shapes.items()}
    np.savez(tmp_path / "start.npz", **started)
    grid = parse_grid(text_of(one.model_copy(update={"init": KINDS["init"][init].model_validate(row.keys)})), folder=tmp_path)
    read = grid.trials[0].spec
    factors = read.initial_factors(grid.files.contents)
    assert [factor.shape for factor in factors] == [*one.factor_shapes.values()]
    assert all(factor.dtype == np.float64 and row.holds(factor) for factor in factors)
    again = read.initial_factors(grid.files.contents)
    assert all(np.array_equal(a, b) for a, b in zip(factors, again, strict=True))
    other = read.model_copy(update={"seed": read.seed + 1})
    drawn = not all(np.array_equal(a, b) for a, b in zip(factors, other.initial_factors(grid.files.contents), strict=True))
    assert read.init.seeded == drawn, f"init.kind {init} says seeded = {read.init.seeded}, but its draws {'differ' if drawn else 'agree'}"
    assert (read.canonical() != other.canonical()) == drawn


def text_of(one):
    """A grid file of one trial. JSON is YAML."""
    given = {
        "stop": {"steps": one.stop.steps},
        "problem": PROBLEMS[one.problem.kind].keys | {"kind": one.problem.kind, "shape": list(one.shape)},
    }
    fields = one.model_dump(mode="json", exclude_none=True, exclude=set() if one.seeded else {"seed"}) | given
    return json.dumps({"name": "one", "fixed": fields})


@pytest.mark.parametrize(("problem", "factorization"), pairs())
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_is_a_grid_that_the_schema_knows(problem, factorization, optimizer):
    one = spec(problem, factorization, optimizer, "mse")
    text = text_of(one)
    (trial,) = parse_grid(text).trials
    assert trial.spec.canonical() == one.canonical()
    SCHEMA.validate(json.loads(text))
    for key in ("problem.kind", "factorization.kind", "loss"):
        assert key in trial.spec.flat()


def test_a_kind_without_a_kernel_or_a_gradient_is_traced():
    """Tucker has neither."""
    one = spec("tensor_completion", "tucker")
    assert why_not_fused(one) is None
    assert chosen("auto", [one] * 64) == "fused"
    params, grads = ([torch.zeros(1, *s) for s in one.factor_shapes.values()] for _ in range(2))
    assert type(one.factorization.program(params, grads, torch.zeros(1, 24))).__name__ == "TracedProgram"


@pytest.mark.parametrize(("problem", "factorization"), pairs(functions=False))
def test_lanes_are_products_of_one_run_each(problem, factorization):
    one = spec(problem, factorization)
    factors = [
        torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
        for n, shape in enumerate(one.factor_shapes.values())
    ]
    lanes = one.factorization.products(factors)
    assert lanes.shape == (3, *one.shape)
    for lane in range(3):
        np.testing.assert_allclose(one.factorization.product(*(f[lane] for f in factors)), lanes[lane], rtol=1e-12, atol=1e-14)


def test_references_share_nothing_with_what_they_are_for():
    source = Path(references.__file__).read_text()
    assert set(re.findall(r"^from (workloads[\w.]*)", source, re.MULTILINE)) == {"workloads.trial"}


def test_every_figure_is_drawn_and_every_claim_is_checked():
    assert PANELS.keys() == FIGURES.keys(), "a kind of figure has its panels in orchestrator/analysis/charts and a row in PANELS"
    assert CHECKS.keys() == CLAIMS.keys(), "a kind of claim has its check and a row in CHECKS, in orchestrator/analysis/claims.py"
