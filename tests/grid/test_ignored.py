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


def steps_by(options):
    return swapped("lr: 0.1", f"lr: 0.1, {options}")


def with_noise(noise):
    return swapped("observed: 5", f"observed: 5, noise: {{{noise}}}")


IN_ALL = "there are 10 at most; leave it out"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (steps_by("batch: 5"), "g.yaml:6:34: optimizer.batch: has no effect: each step sees all of the 5 observations without it, too; leave it out"),
        (GOOD + "grid: {optimizer.batch: [5]}\n", "g.yaml:8:26: optimizer.batch: has no effect: each step sees all of the 5 observations without it, too; leave it out"),
        (steps_by("schedule: {milestones: [10, 20], factors: [0.1, 0.2]}"), f"g.yaml:6:45: optimizer.schedule.milestones: has no effect: the first of them is step 10, and {IN_ALL}"),
        (steps_by("schedule: {milestones: [5], factors: [1]}"), "g.yaml:6:62: optimizer.schedule.factors: has no effect: all of them are 1; leave it out"),
        (steps_by("schedule: {warmup: 1}"), "g.yaml:6:45: optimizer.schedule.warmup: has no effect: after a single step lr is what it is without; leave it out"),
        (steps_by("schedule: {warmup: 9, cosine: 5}"), f"g.yaml:6:56: optimizer.schedule.cosine: has no effect: it begins after 9 steps of warmup, and {IN_ALL}"),
        (steps_by("schedule: {cosine: 5, floor: 1}"), "g.yaml:6:45: optimizer.schedule.cosine: has no effect: optimizer.schedule.floor is 1, from which nothing falls; leave it out"),
        (with_noise("std: 0, share: 0.1"), "g.yaml:3:101: problem.noise.share: has no effect: problem.noise.std is 0, which is no noise; leave it out"),
        (swapped("depth: 2", "depth: 1").replace("scale: 0.1", "scale: 0.1, balanced: true"), "g.yaml:5:38: init.balanced: has no effect: a single factor has none to be balanced with; leave it out"),
        (GOOD + "record: {steps: [11, 20]}\n", "g.yaml:8:10: record.steps: has no effect: the first of them is step 11, and no trial takes more than 10"),
        (GOOD + "record: {checkpoint_steps: [11]}\n", "g.yaml:8:10: record.checkpoint_steps: has no effect: the first of them is step 11, and no trial takes more than 10"),
        (GOOD + "record: {measures: [singular_values_4]}\n", "g.yaml:8:21: record.measures: singular_values_4 asks for more than there are: singular_values_3 has them all"),
        (GOOD + "record: {measures: [singular_values_2, singular_values]}\n", "g.yaml:8:21: record.measures: singular_values_2 has no effect beside singular_values, which has all of its columns"),
        (GOOD + "record: {measures: [singular_values_3, singular_values]}\n", "g.yaml:8:40: record.measures: singular_values has no effect beside singular_values_3, which has all of its columns"),
        (GOOD + "tracking: {runs: none, points: 9}\n", "g.yaml:8:24: tracking.points: has no effect with tracking.runs: none: no trial has a run"),
    ],
)  # fmt: skip
def test_a_key_without_effect_in_any_trial_is_refused(text, message):
    assert errors(text) == [message]


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (GOOD + "grid: {optimizer.batch: [2, 5]}\n", ()),
        (GOOD + "cases: [{optimizer.batch: 5}, {optimizer.batch: 2}]\n", ()),
        (steps_by("batch: 5") + "grid: {problem.observed: [5, 6]}\n", ()),
        (with_noise("std: 0.1, share: 0.1"), ["problem.noise.std=[0, 0.1]"]),
        (swapped("scale: 0.1", "scale: 0.1, balanced: true"), ["factorization.depth=[1, 2]"]),
        (GOOD + "grid: {problem.shape: [[2, 2], [4, 4]]}\nrecord: {measures: [singular_values_4]}\n", ["problem.observed=3"]),
        # A try with few steps of what is meant for more.
        (steps_by("schedule: {milestones: [9], factors: [0.1]}") + "record: {checkpoint_steps: [9]}\n", ["stop.steps=5"]),
    ],
)  # fmt: skip
def test_a_key_may_be_without_effect_in_some_trials(text, overrides):
    assert parse_grid(text, overrides=overrides).trials


def test_a_key_that_an_override_leaves_without_effect_can_be_taken_away_by_another():
    text = with_noise("std: 0.1, share: 0.1")
    (message,) = errors(text, ["problem.noise.std=0"])
    assert message.endswith("; leave it out, by --set problem.noise.share=null")
    assert parse_grid(text, overrides=["problem.noise.std=0", "problem.noise.share=null"]).trials


def test_more_numbers_of_a_code_than_it_has_are_refused():
    reconstruction = "{kind: reconstruction, data: shapes, shape: [4, 4, 3], observed: 6, held_out: 4}"
    text = (
        GOOD.replace("{kind: matrix_completion, shape: [3, 3], target: {rank: 1}, observed: 5}", reconstruction)
        .replace("{kind: deep_matrix, depth: 2}", "{kind: autoencoder, code_size: 3}")
        + "record: {measures: [code_spectrum_20, code_singular_values_3]}\n"
    )  # fmt: skip
    assert errors(text) == ["g.yaml:8:21: record.measures: code_spectrum_20 asks for more than there are: code_spectrum_3 has them all"]


def test_a_pattern_of_a_tree_with_one_node_is_refused():
    text = (
        GOOD.replace("matrix_completion, shape: [3, 3], target: {rank: 1}", "tensor_completion, shape: [2, 2, 2], target: {rank: 1}")
        .replace("{kind: deep_matrix, depth: 2}", "{kind: hierarchical, arity: 3, pattern: half}")
    )  # fmt: skip
    assert errors(text) == ["g.yaml:4:49: factorization.pattern: has no effect: a single node joins all modes; leave it out"]
