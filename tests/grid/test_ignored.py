"""Nothing that a grid file or the command line says is passed over in silence."""

from __future__ import annotations

import pytest

from orchestrator.grid import parse_grid
from tests.grid.test_errors import GOOD, errors, swapped

EMPTY = "is a section without keys, which sets nothing: give it some, or leave it out"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (swapped("observed: 5", "observed: 5, noise: {}"), f"g.yaml:3:85: problem.noise: {EMPTY}"),
        (GOOD + "  loss: {}\n", f"g.yaml:8:3: loss: {EMPTY}"),
        (GOOD + "cases: [{problem: {noise: {}}}]\n", f"g.yaml:8:20: problem.noise: {EMPTY}"),
        (GOOD + "exclude: ''\n", "g.yaml:8:1: exclude: must be a list of partial specs and conditions"),
        (GOOD + "exclude: {}\n", "g.yaml:8:1: exclude: must be a list of partial specs and conditions"),
        (GOOD + "exclude: 0\n", "g.yaml:8:1: exclude: must be a list of partial specs and conditions"),
        (GOOD + "  problem.noise: 3\n  problem.noise.std: 1\n", "g.yaml:8:3: problem.noise: must be a mapping of keys, not 3"),
        (GOOD + "  problem.noise: 3\ngrid: {problem.noise.std: [1]}\n", "g.yaml:8:3: problem.noise: must be a mapping of keys, not 3"),
        (GOOD + "  optimizer.lr.x: 2\n", "g.yaml:6:25: optimizer.lr: must be a mapping of keys, not 0.1"),
        (GOOD + "  loss.kind: mse\n  loss: mse\n", "g.yaml:8:3: loss.kind: has no effect beside loss, which is the name of a kind already"),
        (GOOD + "  loss: mse\n  loss.kind: mse\n", "g.yaml:9:3: loss.kind: has no effect beside loss, which is the name of a kind already"),
        (
            GOOD + "cases: [{problem.target.rank: 2, problem.target: null}]\n",
            "g.yaml:8:34: problem.target: is null, which takes away problem.target.rank, given beside it",
        ),
    ],
)  # fmt: skip
def test_what_would_set_nothing_is_refused(text, message):
    assert errors(text) == [message]


def test_fixed_that_is_no_mapping_is_refused():
    assert "g.yaml:2:1: fixed: must be a mapping of keys" in errors("name: g\nfixed: ''\n")


def test_a_point_of_an_axis_may_set_nothing_and_a_section_may_be_set_anew():
    loaded = parse_grid(GOOD + "grid: {problem.noise: [{}, {std: 1}]}\n")
    assert [trial.spec.problem.noise is None for trial in loaded.trials] == [True, False]
    anew = parse_grid(GOOD + "cases: [{problem.target: null, problem.target.rank: 2}]\n")
    assert anew.trials[0].spec.problem.target.rank == 2


@pytest.mark.parametrize("written", ["1\nfoo: 2", "[1, 2]\nfoo: 2", "\nfoo: 2"])
def test_more_than_one_value_on_the_command_line_is_refused(written):
    message = "--set optimizer.lr: holds more than one value: what follows the first line is not part of it"
    assert errors(GOOD, [f"optimizer.lr={written}"]) == [message]
    assert len(parse_grid(GOOD, overrides=["optimizer.lr=\n- 1\n- 2"]).trials) == 2, "a list may be written over lines"
