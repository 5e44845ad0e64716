"""Values derived from others, exclusions by condition, zips beside each other, and axes from the command line."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from orchestrator.errors import GridError
from tests.grid.test_expand import FIXED, SOLVED, grid, ids


def fixed(**sections):
    """`FIXED` with some keys of its sections changed."""
    return {part: {**given, **sections.get(part, {})} for part, given in FIXED.items()}


def refused(message, overrides=(), **keys):
    with pytest.raises(GridError) as caught:
        grid(overrides, **keys)
    assert len(caught.value.mistakes) == 1, caught.value.mistakes
    assert re.search(message, caught.value.mistakes[0]), caught.value.mistakes


def test_a_derived_value_is_the_trial_that_spells_it_out():
    derived = grid(fixed=fixed(optimizer={"lr": "= 0.1 / factorization.depth"}), grid={"factorization.depth": [1, 2, 4]})
    spelt = grid(zip={"factorization.depth": [1, 2, 4], "optimizer.lr": [0.1, 0.05, 0.025]})
    assert ids(derived) == ids(spelt)
    assert derived.extent.keys == ("factorization.depth",)


def test_a_truth_may_follow_the_seed():
    loaded = grid(fixed=fixed(problem={"seed": "= seed"}), seeds=3)
    assert [(t.spec.seed, t.spec.problem.seed) for t in loaded.trials] == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize(
    ("observed", "is_"),
    [
        ("= problem.shape[0] * 2 - 1", 5),
        ("= round(problem.shape[0] ** 2 * 0.5)", 4),
        ("= ceil(0.7 * 9)", 7),
        ("= floor(sqrt(35))", 5),
        ("= max(problem.target.rank, 3)", 3),
        ("= 1 / problem.shape[1]", 1 / 3),
        ("=  -(-4)", 4),
        ("= abs(problem.seed - 4)", 4),
    ],
)
def test_whole_numbers_stay_whole(observed, is_):
    (trial,) = grid(fixed=fixed(problem={"observed": observed})).trials
    assert trial.spec.problem.observed == is_
    assert type(trial.spec.problem.observed) is type(is_)


def test_derived_values_may_be_chained_across_parts_and_stand_anywhere():
    keys = {
        "fixed": fixed(optimizer={"lr": "= init.scale * 2"}, init={"scale": "= 1 / factorization.depth"}),
        "cases": [{"stop.steps": 10}, {"stop.steps": "= 100 * factorization.depth"}],
        "grid": {"factorization.depth": [1, 2], "optimizer.kind": ["gd", "momentum"]},
    }
    specs = [t.spec for t in grid(**keys).trials]
    assert [(s.stop.steps, s.factorization.depth, s.init.scale, s.optimizer.lr) for s in specs[::2]] == [
        (10, 1, 1.0, 2.0), (10, 2, 0.5, 1.0), (100, 1, 1.0, 2.0), (200, 2, 0.5, 1.0),
    ]  # fmt: skip
    assert [t.spec.optimizer.lr for t in grid(["optimizer.lr== 0.3 * factorization.depth"]).trials] == [0.6]


def test_a_derived_value_may_be_true_or_false_and_use_defaults():
    loaded = grid(fixed=fixed(init={"balanced": "= factorization.depth > 2"}), grid={"factorization.depth": [2, 3]})
    assert [t.spec.init.balanced for t in loaded.trials] == [False, True]
    (trial,) = grid(fixed=fixed(stop={"check_every": "= stop.consecutive + 1", "loss": 0.1})).trials
    assert trial.spec.stop.check_every == 2


@pytest.mark.parametrize(
    ("lr", "message"),
    [
        (
            "= 0.1 / factorization.dept",
            r"there is no factorization\.dept in a trial before it is trained; did you mean factorization\.depth\?",
        ),
        ("= 0.1 * error", r"there is no error in a trial before it is trained"),
        ("= 0.1 *", r"'= 0\.1 \*' is not an expression"),
        ("=", r"'=' is empty"),
        ("= lowest(loss)", r"there is no lowest\(loss\)"),
        ("= 1 / (factorization.depth - 2)", r"divides by zero"),
        ("= sqrt(-factorization.depth)", r"takes a root or a logarithm where there is none"),
        ("= 10 ** 400.0", r"is larger than floating point holds"),
        ("= 9 ** 9 ** 9 ** 9", r"is larger than floating point holds"),
        ("= optimizer.lr", r"goes round in a circle: optimizer\.lr needs optimizer\.lr"),
        ("= init.product_scale", r"needs a key that this trial does not have"),
        ("= problem.shape[2]", r"needs a key that this trial does not have"),
        ("= problem.kind * 2", r"computes with what is no number"),
        ("= factorization.depth > 1", r"must be a number, not true"),
        ("= -factorization.depth", r"must be above 0\.0, not -2"),
    ],
)
def test_what_cannot_be_derived_is_one_message_where_it_was_written(lr, message):
    refused(rf"^<grid>:1:\d+: optimizer\.lr: .*{message}", fixed=fixed(optimizer={"lr": lr}))


def test_a_circle_through_parts_is_found():
    sections = {"optimizer": {"lr": "= init.scale"}, "init": {"scale": "= optimizer.lr"}}
    with pytest.raises(GridError, match=r"goes round in a circle: optimizer\.lr needs init\.scale needs optimizer\.lr"):
        grid(fixed=fixed(**sections))


def test_what_an_inner_section_leaves_out_has_its_default_too():
    assert grid(["init.scale== 0.5 * problem.target.frobenius"]).trials[0].spec.init.scale == 0.5
    assert grid(["problem.seed== seed + 3"]).trials[0].spec.problem.seed == 3
    assert grid(["problem.noise.std=0.3", "init.scale== 0.5 + problem.noise.std"]).trials[0].spec.init.scale == 0.8
    refused("needs a key that this trial does not have", ["init.scale== 0.5 + problem.noise.std"])
    refused("needs a key that this trial does not have", ["problem.noise.std=0.3", "init.scale== 0.5 + problem.noise.seed"])


def test_exclude_by_a_condition():
    keys = {"grid": {"factorization.depth": [1, 2, 3], "optimizer.lr": [0.1, 1.0]}}
    loaded = grid(**keys, exclude=["factorization.depth == 3 and optimizer.lr > 0.5", "factorization.depth < 2"])
    assert [(t.spec.factorization.depth, t.spec.optimizer.lr) for t in loaded.trials] == [(2, 0.1), (2, 1.0), (3, 0.1)]


def test_a_condition_is_looked_at_as_far_as_it_has_to_be():
    keys = {"grid": {"factorization.depth": [1, 2, 3]}, "seeds": 3}
    for condition in (
        "factorization.depth > 1 and 1 / (factorization.depth - 1) > 0.6",
        "not (factorization.depth == 1 or 1 / (factorization.depth - 1) <= 0.6)",
    ):
        left = grid(**keys, exclude=[condition]).trials
        assert [t.spec.factorization.depth for t in left] == [1, 1, 1, 3, 3, 3], condition
    for condition in ("1 / (factorization.depth - 1) > 0.6", "seed > 1 and 1 / (factorization.depth - 1) > 0.6"):
        refused("divides by zero", **keys, exclude=[condition])


def test_exclude_by_a_list_of_values():
    keys = {"grid": {"factorization.depth": [1, 2, 3]}}
    assert [t.spec.factorization.depth for t in grid(**keys, exclude=[{"factorization.depth": [1, 3]}]).trials] == [2]
    widths = {"fixed": fixed(factorization={"depth": 3}), "grid": {"factorization.widths": [[3, 3], [3, 4], [4, 4]]}}
    assert [t.spec.factorization.widths for t in grid(**widths, exclude=[{"factorization.widths": [3, 4]}]).trials] == [(3, 3), (4, 4)]
    assert [t.spec.factorization.widths for t in grid(**widths, exclude=[{"factorization.widths": [[3, 4], [4, 4]]}]).trials] == [(3, 3)]


def test_exclude_by_a_range():
    keys = {"grid": {"stop.steps": "1..9"}}
    for listed in ("3..7", [3, "4..6", 7], {"linspace": [3, 7, 5]}):
        assert [t.spec.stop.steps for t in grid(**keys, exclude=[{"stop.steps": listed}]).trials] == [1, 2, 8, 9]
    refused("must rise", **keys, exclude=[{"stop.steps": "7..3"}])


def test_long_numbers_in_expressions():
    assert grid(["stop.steps== 2 * 20_000"]).trials[0].spec.stop.steps == 40_000
    assert len(grid(grid={"stop.steps": [10_000, 30_000]}, exclude=["stop.steps > 20_000.5"]).trials) == 1
    refused("not an expression", ["stop.steps== 20__000"])


def test_what_is_excluded_is_not_checked():
    keys = {"grid": {"factorization.depth": [2, 3], "factorization.widths": [[3], [3, 3]]}}
    refused_too = [{"factorization.depth": 2, "factorization.widths": [[3, 3]]}, {"factorization.depth": 3, "factorization.widths": [3]}]
    assert [t.spec.factorization.widths for t in grid(**keys, exclude=refused_too).trials] == [(3,), (3, 3)]
    with pytest.raises(GridError):
        grid(**keys)


def test_a_key_that_a_trial_does_not_have_meets_no_comparison():
    cases = [{"optimizer.lr": 0.2}, SOLVED]
    assert len(grid(cases=cases, exclude=["optimizer.lr > 0.1"]).trials) == 1
    assert len(grid(cases=cases, exclude=["not optimizer.lr > 0.1"]).trials) == 1


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ("factorization.depth > 7", "leaves out nothing: no trial has factorization.depth > 7"),
        ("factorization.depth", "is a number, not a condition"),
        ("error > 1", "there is no error in a trial before it is trained: it has"),
        ("factorization.kind == cp", r"there is no cp in a trial before it is trained \(text is in quotes: 'cp'\)"),
        ("factorization.depth >", "is not an expression"),
        ("1 / (factorization.depth - 2) > 3", "divides by zero"),
        ({"factorization.dept": 1}, r"unknown key; did you mean factorization\.depth\?"),
    ],
)
def test_an_exclusion_that_is_wrong_says_so(exclude, message):
    refused(message, exclude=[exclude])


def test_zips_multiply():
    zips = [{"optimizer.lr": [0.1, 0.2], "stop.steps": [10, 20]}, {"problem.observed": [4, 5, 6], "init.scale": [0.1, 0.2, 0.3]}]
    specs = [t.spec for t in grid(zip=zips).trials]
    assert [(s.optimizer.lr, s.stop.steps, s.problem.observed, s.init.scale) for s in specs] == [
        (lr, steps, observed, scale) for lr, steps in ((0.1, 10), (0.2, 20)) for observed, scale in ((4, 0.1), (5, 0.2), (6, 0.3))
    ]
    refused("equally many values", zip=[{"optimizer.lr": [0.1, 0.2], "stop.steps": [10]}])
    refused(r"is set by zip\[0\] already", zip=[{"optimizer.lr": [0.1, 0.2]}, {"optimizer.lr": [0.3]}])
    refused("each item must be a mapping", zip=[{"optimizer.lr": [0.1, 0.2]}, 3])


AXES = {"grid": {"factorization.depth": [1, 2], "optimizer.lr": [0.1, 0.2]}, "seeds": 2}


@pytest.mark.parametrize(
    ("override", "edited"),
    [
        ("factorization.depth=[2, 3, 4]", {"grid": {"factorization.depth": [2, 3, 4], "optimizer.lr": [0.1, 0.2]}}),
        ("factorization.depth=1..3", {"grid": {"factorization.depth": [1, 2, 3], "optimizer.lr": [0.1, 0.2]}}),
        ("grid.factorization.depth=[2, 3]", {"grid": {"factorization.depth": [2, 3], "optimizer.lr": [0.1, 0.2]}}),
        ("optimizer.lr={logspace: [1e-2, 1, 3]}", {"grid": {"factorization.depth": [1, 2], "optimizer.lr": [0.01, 0.1, 1.0]}}),
        ("init.scale=[0.1, 0.3]", {"grid": {**AXES["grid"], "init.scale": [0.1, 0.3]}}),
        ("problem.shape=[[3, 3], [4, 4]]", {"grid": {**AXES["grid"], "problem.shape": [[3, 3], [4, 4]]}}),
        ("problem.shape=[4, 4]", {"fixed": fixed(problem={"shape": [4, 4]})}),
        ("problem.target={rank: 2}", {"fixed": fixed(problem={"target": {"rank": 2}})}),
        ("init={kind: orthogonal, scale: 0.5}", {"fixed": {**FIXED, "init": {"kind": "orthogonal", "scale": 0.5}}}),
        ("init=[{kind: orthogonal, scale: 0.5}, {kind: gaussian, scale: 0.2}]", {
            "fixed": {key: value for key, value in FIXED.items() if key != "init"},
            "grid": {**AXES["grid"], "init": [{"kind": "orthogonal", "scale": 0.5}, {"kind": "gaussian", "scale": 0.2}]},
        }),
        ("seeds=3..4", {"seeds": [3, 4]}),
        ("seeds=[1, 7]", {"seeds": [1, 7]}),
        ("seed=[1, 7]", {"seeds": [1, 7]}),
    ],
)  # fmt: skip
def test_set_makes_axes_of_lists_ranges_and_maps(override, edited):
    assert ids(grid([override], **AXES)) == ids(grid(**{**AXES, **edited}))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("factorization.depth=[]", "^--set factorization.depth: factorization.depth: is an empty axis"),
        ("factorization.depth=3..1", "^--set factorization.depth: factorization.depth: '3..1' must rise"),
        ("factorization.depth=[2, x]", "^--set factorization.depth: factorization.depth: must be a whole number, not 'x'"),
        ("optimizer.lr={logspace: [0, 1, 3]}", "^--set optimizer.lr: optimizer.lr: logspace needs numbers above 0"),
        ("init={kind: gausian}", "^--set init: init.kind: unknown kind 'gausian'; did you mean gaussian?"),
        ("grid.optimizer.lr=0.1", "^--set optimizer.lr: optimizer.lr: must be a list of values"),
        ("init.det_sign=null", "^--set init.det_sign: init.det_sign: is null, which takes away what was set, but nothing was"),
        ("optimizer.lr== 1 / error", "^--set optimizer.lr: optimizer.lr: there is no error"),
    ],
)
def test_what_is_wrong_with_set_names_it(override, message):
    refused(message, [override], fixed=FIXED)


def test_set_null_takes_away():
    assert [t.spec.stop.loss for t in grid(["stop.loss=null"], fixed=fixed(stop={"loss": 0.1})).trials] == [None]


def test_a_long_axis_of_derived_values_is_expanded_once_a_point():
    many = {"samples": 2000, "init.scale": {"loguniform": [1e-3, 1]}}
    loaded = grid(fixed=fixed(optimizer={"lr": "= 0.1 * init.scale"}), random=many)
    assert all(t.spec.optimizer.lr == pytest.approx(0.1 * t.spec.init.scale, rel=1e-15) for t in loaded.trials)


def test_seeds_matter_where_values_follow_from_them():
    linear = {key: value for key, value in FIXED.items() if key != "init"} | {"factorization": {"kind": "linear"}}
    for problem in ({"noise": {"std": 0.1, "seed": "= seed"}}, {"seed": "= seed"}):
        loaded = grid(fixed={**linear, "problem": {**FIXED["problem"], **problem}}, seeds=4)
        assert len(set(ids(loaded))) == 4
    refused("has no effect: the trials that it is set for draw nothing", fixed=linear, seeds=4)


@pytest.mark.parametrize(
    ("condition", "left"),
    [
        ("init.scale != 0.3", 1),
        ("init.scale not in [0.3]", 1),
        ("init.scale * 2 > 0.1", 1),
        ("optimizer.lr > 5", 2),
        ("not init.scale > 0.05", 1),
    ],
)
def test_no_comparison_with_a_key_that_a_trial_does_not_have_holds(condition, left):
    """Nor one with a value that follows from it; but a negation of it does."""
    cases = [{"optimizer.lr": "= 20 * init.scale"}, {**SOLVED}]
    if left == 2:
        refused("leaves out nothing", cases=cases, exclude=[condition])
    else:
        assert len(grid(cases=cases, exclude=[condition]).trials) == left


def test_values_that_follow_from_values_are_computed_once():
    """Forty times forty times forty additions, and so on: minutes, if each is computed whenever it is asked for."""
    chain = ["stop.steps", "stop.check_every", "stop.consecutive", "problem.seed", "factorization.depth"]
    sections = {"stop": {"loss": 0.1}, "problem": {}, "factorization": {}}
    for key, after in pairwise(chain):
        part, _, name = key.partition(".")
        sections[part][name] = "= 2 + min(" + " + ".join([after] * 40) + ", 5)"
    (trial,) = grid(fixed=fixed(**sections)).trials
    assert trial.spec.stop.steps == 7


def test_what_was_said_last_of_a_key_counts():
    (trial,) = grid(["init.scale=0.1", "init={kind: orthogonal, scale: 0.3}", "init.scale=0.2"]).trials
    assert (trial.spec.init.kind, trial.spec.init.scale) == ("orthogonal", 0.2)


@pytest.mark.parametrize("override", ["init={}", "grid.init=[{}]"])
def test_an_empty_set_of_keys_is_a_mistake(override):
    refused("init: must be a set of keys, and is empty", [override])


def test_a_misspelt_section_in_exclude_is_one_line():
    refused("unknown key; did you mean seed", exclude=[{"sed": 1}], seeds=3)
