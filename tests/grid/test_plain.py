"""Grids that programs make are read as the same file would be, and mistakes are placed in the data."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import GridError
from orchestrator.grid import load_grid, parse_grid
from orchestrator.grid.plain import plain_grid, written
from orchestrator.grid.source import parse, parse_value

ROOT = Path(__file__).parents[2]
GRID = {
    "name": "made",
    "fixed": {
        "problem": {"kind": "matrix_completion", "shape": (3, 3), "target": {"rank": np.int64(1)}, "observed": 5},
        "factorization.kind": "deep_matrix",
        "init": {"kind": "gaussian"},
        "optimizer": {"kind": "gd", "lr": np.float64(1e-3)},
        "stop.steps": 20,
    },
    "grid": {"factorization.depth": range(2, 4), "init.scale": np.array([1e-5, 0.1])},
    "seeds": "0..2",
}
TEXT = """\
name: made
fixed:
  problem: {kind: matrix_completion, shape: [3, 3], target: {rank: 1}, observed: 5}
  factorization.kind: deep_matrix
  init: {kind: gaussian}
  optimizer: {kind: gd, lr: 1e-3}
  stop.steps: 20
grid: {factorization.depth: [2, 3], init.scale: [1e-5, 0.1]}
seeds: 0..2
"""


def test_data_makes_the_trials_that_the_same_file_makes():
    made = plain_grid(GRID)
    assert [trial.trial_id for trial in made.trials] == [trial.trial_id for trial in parse_grid(TEXT).trials]
    # What goes to MLflow is a grid file.
    assert parse_grid(made.text).trials == made.trials
    assert [trial.spec.seed for trial in plain_grid(GRID, ["seeds=1"]).trials] == [0] * 4


@pytest.mark.parametrize("name", ["figure1", "depth-vs-init", "figure2-order3"])
def test_shipped_grids_are_the_same_as_data(name):
    path = ROOT / "configs" / f"{name}.yaml"
    made, loaded = plain_grid(parse(path.read_text(), name).data), load_grid(path)
    assert [trial.trial_id for trial in made.trials] == [trial.trial_id for trial in loaded.trials]
    assert (made.figures, made.claims, made.record) == (loaded.figures, loaded.claims, loaded.record)


LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"seeds": "1e3"}, "grid['seeds']: seeds: must be a whole number of at least 1, .* not '1e3'"),
        ({"fixed": {**GRID["fixed"], "stop.stps": 3}}, "grid['fixed']['stop.stps']: stop.stps: unknown key; did you mean steps?"),
        ({"cases": [{"optimizer.lr": 1}, {"optimizer.rl": 2}]}, "grid['cases'][1]['optimizer.rl']: optimizer.rl: unknown key"),
        ({"fixed": {}}, "grid['fixed']: problem: is missing"),
        ({"name": None}, "grid['name']: name: must be text"),
        ({"seeds": object()}, "grid['seeds']: must be plain data, not object"),
        ({3: 4}, "grid: a key must be text, not 3"),
        ({"seeds": LOOP}, "grid['seeds'][0][0]...: is nested more than 40 levels deep"),
    ],
)
def test_mistakes_are_placed_in_the_data(change, mistake):
    with pytest.raises(GridError) as raised:
        plain_grid({**GRID, **change})
    found = str(raised.value).splitlines()[0]
    before, _, after = mistake.partition(" .* ")
    assert found.startswith(before)
    assert after in found


def test_what_is_missing_as_a_whole_is_not_put_down_to_the_first_key():
    with pytest.raises(GridError, match=r"^grid: name: is missing"):
        plain_grid({key: value for key, value in GRID.items() if key != "name"})


def test_values_of_overrides():
    values = {
        "3": 3,
        "0.001": 1e-3,
        '"1e-3"': "1e-3",
        "two words": "two words",
        "[1, 2]": (1, 2),
        "true": True,
        "null": None,
        ".inf": math.inf,
    }
    for text, value in values.items():
        assert written(value) == text
        assert parse_value(text, "x") == (list(value) if isinstance(value, tuple) else value)
