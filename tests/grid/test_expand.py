"""Expansion: counts, order, identity, overrides; and that no text makes the loader fail in any other way than with a message."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.errors import GridError
from orchestrator.grid import load_grid, parse_grid
from orchestrator.grid.source import resolve
from workloads.trial import TrialSpec

CONFIGS = Path(__file__).parents[2] / "configs"
FIXED = {
    "problem": {"kind": "matrix_completion", "shape": [3, 3], "target": {"rank": 1}, "observed": 5},
    "factorization": {"kind": "deep_matrix", "depth": 2},
    "init": {"kind": "gaussian", "scale": 0.1},
    "optimizer": {"kind": "gd", "lr": 0.1},
    "stop": {"steps": 10},
}

SOLVED = {"factorization": {"kind": "nuclear_norm", "depth": None}, "init": None, "optimizer": None}
"""A case that draws nothing."""


def grid(overrides=(), **keys):
    return parse_grid(json.dumps({"name": "g", "fixed": FIXED, **keys}), overrides=overrides)


def ids(loaded):
    return [t.trial_id for t in loaded.trials]


@settings(max_examples=40, deadline=None)
@given(cases=st.integers(0, 3), depths=st.integers(0, 3), lrs=st.integers(0, 3), samples=st.integers(0, 3), seeds=st.integers(0, 3))
def test_axes_multiply_in_order(cases, depths, lrs, samples, seeds):
    keys = {}
    if cases:
        keys["cases"] = [{"problem.observed": 3 + n} for n in range(cases)]
    if depths:
        keys["grid"] = {"factorization.depth": list(range(1, depths + 1))}
    if lrs:
        keys["zip"] = {"optimizer.lr": [0.1 * (n + 1) for n in range(lrs)], "stop.steps": [10 + n for n in range(lrs)]}
    if samples:
        keys["random"] = {"samples": samples, "init.scale": {"uniform": [0.1, 1.0]}}
    if seeds:
        keys["seeds"] = seeds
    loaded = grid(**keys)
    sizes = [max(1, n) for n in (cases, depths, lrs, samples, seeds)]
    assert len(loaded.trials) == np.prod(sizes)
    assert len(set(ids(loaded))) == len(loaded.trials)
    specs = [t.spec for t in loaded.trials]
    order = [(s.problem.observed, s.factorization.depth, s.stop.steps) for s in specs]
    assert order == sorted(order), "cases, then grid, then zip vary slowest"
    if seeds:
        assert [s.seed for s in specs[:seeds]] == list(range(seeds)), "seeds vary fastest"
    assert ids(grid(**keys)) == ids(loaded)


def test_trials_share_what_they_have_in_common_and_tell_how_many_there_are():
    told = []
    fixed = FIXED | {"factorization": {"kind": "deep_matrix"}}
    text = json.dumps({"name": "g", "fixed": fixed, "grid": {"factorization.depth": [2, 3]}, "seeds": 1200})
    trials = parse_grid(text, advanced=lambda done, count: told.append((done, count))).trials
    assert told == [(0, 2400), (1000, 2400), (2000, 2400)]
    for part in ("problem", "init", "loss", "optimizer", "stop"):
        assert len({id(getattr(trial.spec, part)) for trial in trials}) == 1, part
    assert len({trial.spec.sections for trial in trials}) == 2


def test_trials_are_what_the_models_accept():
    for path in CONFIGS.glob("*.yaml"):
        # A hundred thousand trials take long, and differ in their seeds.
        few = ["zip={seed: 0..1, problem.seed: 0..1}"] if path.stem == "phase-diagram" else []
        trials = load_grid(path, few).trials
        for trial in trials[:: max(37, len(trials) // 100)]:
            if trial.spec.problem.file is not None:
                continue  # its content is part of the canonical form, its path is not
            fields = trial.spec.model_dump(mode="json", exclude_none=True, exclude_unset=True)
            assert TrialSpec.model_validate(fields).canonical() == trial.spec.canonical()


@settings(max_examples=30, deadline=None)
@given(st.permutations(list(FIXED)), st.booleans(), st.booleans())
def test_identity_does_not_depend_on_how_it_is_written(order, dotted, defaults):
    fixed = {key: dict(FIXED[key]) for key in order}
    if defaults:
        fixed |= {"loss": "half_sse", "dtype": "float64", "seed": 0}
        fixed["factorization"] |= {"widths": 3}
        fixed["init"] |= {"balanced": False}
        fixed["problem"] |= {"seed": 0, "target": {"frobenius": 1.0, "rank": 1}}
    if dotted:
        fixed = {f"{part}.{key}": value for part, fields in fixed.items() if isinstance(fields, dict) for key, value in fields.items()}
    assert ids(grid(fixed=fixed)) == ids(grid())


@pytest.mark.parametrize(
    "key", ["problem.seed", "factorization.depth", "init.scale", "optimizer.lr", "stop.steps", "seed", "problem.target.frobenius"]
)
def test_identity_depends_on_what_changes_the_numbers(key):
    assert ids(grid([f"{key}=7"])) != ids(grid())


def test_identity_is_pinned():
    # Stored runs are found by it: if this fails, finished trials of all users would run again. Raise SPEC_VERSION only on purpose.
    assert ids(grid()) == ["eb0b5e42aaf06f21"]
    assert ids(grid(["init.kind=identity"])) == ["700d27c7073b049f"]
    assert ids(grid(cases=[SOLVED])) == ["62f12847b10bfc6d"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E-3", 1e-3), ("1.e-3", 1e-3), ("+1e-3", 1e-3), ("5_000_000", 5_000_000), ("-3", -3), (".5", 0.5), ("1e6", 1e6),
        ("true", True), ("False", False), ("null", None), ("~", None), ("no", "no"), ("on", "on"), ("2020-01-01", "2020-01-01"), ("1:30", "1:30"),
        ("0x10", "0x10"), ("e5", "e5"), ("-", "-"), ("1_", 1), (".inf", float("inf")), ("tRue", "tRue"),
    ],
)  # fmt: skip
def test_scalars(text, value):
    found = resolve(text)
    assert found == value
    assert type(found) is type(value)


def test_whole_floats_are_integers_where_integers_are_meant():
    assert grid(["stop.steps=1e3"]).trials[0].spec.stop.steps == 1000
    assert ids(grid(["stop.steps=1e3"])) == ids(grid(["stop.steps=1000"]))
    assert ids(grid(["optimizer.lr=1"])) == ids(grid(["optimizer.lr=1.0"]))


def test_a_case_may_have_axes_of_its_own_beside_one_that_has_none():
    inner = {"grid": {"factorization.depth": [2, 3], "init.product_scale": {"logspace": [1e-6, 1e-2, 3]}}}
    cases = [{"init.scale": None, **inner}, SOLVED]
    loaded = grid(cases=cases, grid={"problem.observed": "4..6"})
    trained = [t.spec for t in loaded.trials if not t.spec.factorization.solved]
    found = [(s.factorization.depth, s.init.product_scale, s.problem.observed) for s in trained]
    assert found == [(d, s, n) for d in (2, 3) for s in (1e-6, 1e-4, 1e-2) for n in (4, 5, 6)]
    assert [t.spec.problem.observed for t in loaded.trials if t.spec.factorization.solved] == [4, 5, 6]
    written = [{"init.scale": None, "factorization.depth": d, "init.product_scale": s} for d in (2, 3) for s in (1e-6, 1e-4, 1e-2)]
    assert ids(grid(cases=[*written, SOLVED], grid={"problem.observed": [4, 5, 6]})) == ids(loaded)


def test_a_case_may_draw_and_zip():
    one = {"zip": {"optimizer.lr": [0.1, 0.2], "stop.steps": "10..11"}, "random": {"samples": 3, "init.scale": {"uniform": [1, 2]}}}
    loaded = grid(cases=[one, {"optimizer.lr": 0.3}], seeds="3..4")
    assert len(loaded.trials) == (2 * 3 + 1) * 2
    assert {(t.spec.optimizer.lr, t.spec.stop.steps) for t in loaded.trials} == {(0.1, 10), (0.2, 11), (0.3, 10)}
    assert [t.spec.seed for t in loaded.trials[:2]] == [3, 4]


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("0..3", [0, 1, 2, 3]),
        ("7..7", [7]),
        ({"linspace": [1, 2, 5]}, [1.0, 1.25, 1.5, 1.75, 2.0]),
        ({"linspace": [0.1, 0.7, 3]}, [0.1, 0.4, 0.7]),
        ({"logspace": [1e-5, 1e-1, 5]}, [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
        ({"logspace": [1, 1e-3, 4]}, [1.0, 0.1, 0.01, 0.001]),
    ],
)
def test_many_values_written_short(written, values):
    key = "factorization.depth" if isinstance(written, str) else "init.scale"
    if written == "0..3":
        assert [t.spec.seed for t in grid(seeds=written).trials] == values
        key, values = "problem.seed", values
    assert ids(grid(grid={key: written})) == ids(grid(grid={key: values}))


def test_more_samples_begin_with_the_fewer_and_other_keys_do_not_disturb():
    def draws(key, **random):
        return [getattr(getattr(t.spec, key.split(".")[0]), key.split(".")[1]) for t in grid(random=random).trials]

    lr = {"loguniform": [1e-4, 1e-1]}
    few, many = (draws("optimizer.lr", samples=n, seed=3, **{"optimizer.lr": lr}) for n in (5, 40))
    assert many[:5] == few
    both = draws("optimizer.lr", samples=5, seed=3, **{"init.scale": {"uniform": [0, 1]}, "optimizer.lr": lr})
    assert both == few
    assert draws("optimizer.lr", samples=5, seed=4, **{"optimizer.lr": lr}) != few
    assert all(1e-4 <= x <= 1e-1 for x in many)
    assert 0.2 < np.mean(np.array(many) < 10**-2.5) < 0.8, "uniform in the logarithm"


def test_integers_include_both_ends_and_choices_all_values():
    random = {
        "samples": 400,
        "problem.seed": {"integers": [5, 7]},
        "optimizer.lr": {"choice": [0.1, 0.2]},
        "init.scale": {"uniform": [0.1, 1]},
    }
    specs = [t.spec for t in grid(random=random).trials]
    assert {s.problem.seed for s in specs} == {5, 6, 7}
    assert {s.optimizer.lr for s in specs} == {0.1, 0.2}


def test_cases_add_to_fixed_key_by_key():
    loaded = grid(cases=[{"init": {"scale": 0.5}}, {"init.balanced": True}])
    first, second = (t.spec.init for t in loaded.trials)
    assert (first.scale, first.balanced) == (0.5, False)
    assert (second.scale, second.balanced) == (0.1, True)


def test_whole_sections_can_be_an_axis():
    loaded = grid(
        fixed={k: v for k, v in FIXED.items() if k != "optimizer"},
        grid={"optimizer": [{"kind": "gd", "lr": 0.1}, {"kind": "adam", "lr": 0.2}]},
    )
    assert [t.spec.optimizer.kind for t in loaded.trials] == ["gd", "adam"]


@pytest.mark.parametrize("case", [SOLVED, {"init.kind": "identity"}, {"init": {"kind": "file", "file": "w.npz", "scale": None}}])
def test_what_draws_nothing_is_one_trial_for_all_seeds(tmp_path, case):
    np.savez(tmp_path / "w.npz", W1=np.eye(3), W2=np.eye(3))

    def of(**keys):
        return parse_grid(json.dumps({"name": "g", "fixed": FIXED, **keys}), folder=tmp_path)

    loaded = of(cases=[{"optimizer.lr": 0.2}, case], seeds=[3, 4, 5])
    assert [t.spec.seed for t in loaded.trials] == [3, 4, 5, 0]
    assert loaded.extent.merged == 2
    (alone,) = of(cases=[case]).trials
    assert ids(loaded)[-1] == alone.trial_id
    assert loaded.trials[-1].spec == alone.spec


def test_exclude_is_about_points_as_they_are_written():
    cases = [{"optimizer.lr": 0.2}, SOLVED]
    one_seed = [{"factorization.kind": "nuclear_norm", "seed": seed} for seed in (0, 2)]
    loaded = grid(cases=cases, seeds=3, exclude=one_seed)
    assert ids(loaded) == ids(grid(cases=cases, seeds=3))
    assert loaded.extent.merged == 0


def test_a_truth_that_is_given_and_seen_as_a_whole_is_the_same_for_all_seeds(tmp_path):
    np.savez(tmp_path / "a.npz", target=np.eye(3))

    def of(*observed, seeds):
        problem = {"kind": "matrix_completion", "file": "a.npz"}
        keys = {"fixed": {**FIXED, "problem": problem}, "grid": {"problem.observed": observed, "problem.seed": seeds}}
        return parse_grid(json.dumps({"name": "g", **keys}), folder=tmp_path)

    loaded = of(5, 1.0, seeds=[0, 1, 2])
    assert [(t.spec.problem.observed, t.spec.problem.seed) for t in loaded.trials] == [(5, 0), (5, 1), (5, 2), (1.0, 0)]
    with pytest.raises(GridError, match=r"problem\.seed: has no effect: neither the ground truth nor what is seen of it is drawn"):
        of(9, seeds=[0, 1])


def test_exclude_leaves_out_what_matches_every_key():
    keys = {"grid": {"factorization.depth": [1, 2, 3], "optimizer.lr": [0.1, 1]}}
    loaded = grid(**keys, exclude=[{"factorization": {"depth": 3}, "optimizer.lr": 1.0}, {"factorization.depth": 1}])
    assert [(t.spec.factorization.depth, t.spec.optimizer.lr) for t in loaded.trials] == [(2, 0.1), (2, 1.0), (3, 0.1)]


@pytest.mark.parametrize(
    ("override", "edit"),
    [
        ("optimizer.lr=0.7", {"fixed": {**FIXED, "optimizer": {"kind": "gd", "lr": 0.7}}}),
        ("factorization.depth=3", {"grid": {}, "fixed": {**FIXED, "factorization": {"kind": "deep_matrix", "depth": 3}}}),
        ("seeds=2", {"seeds": 2}),
        ("seed=5", {"seeds": [5]}),
        ("name=other", {"name": "other"}),
    ],
)
def test_set_is_the_same_as_editing_the_file(override, edit):
    keys = {"grid": {"factorization.depth": [1, 2]}, "seeds": 3}
    assert sorted(ids(grid([override], **keys))) == sorted(ids(parse_grid(json.dumps({"name": "g", "fixed": FIXED, **keys, **edit}))))
    assert grid(["record.points=7"]).record.points == 7
    assert grid(["resources.cpus=2"]).resources.cpus == 2


@pytest.mark.parametrize(("override", "values"), [("init.scale=0.5", [0.5]), ("init.scale=[0.5, 0.7]", [0.5, 0.7])])
def test_set_replaces_an_axis_of_cases_in_each_that_has_it(override, values):
    fixed = {**FIXED, "init": {"kind": "gaussian"}}
    axes = {"grid": {"init.scale": [0.1, 0.2]}}, {"zip": {"init.scale": [0.1, 0.2], "optimizer.lr": [0.3, 0.4]}}
    edited = {"grid": {"init.scale": values}}, {"grid": {"init.scale": values}, "zip": {"optimizer.lr": [0.3, 0.4]}}

    def cases(first, second):
        return [{"factorization.depth": 2, **first}, {"factorization.depth": 3, **second}, SOLVED]

    found = grid([override], cases=cases(*axes), fixed=fixed)
    assert sorted(ids(found)) == sorted(ids(grid(cases=cases(*edited), fixed=fixed)))


def test_a_data_file_counts_by_its_content(tmp_path):
    np.savez(tmp_path / "a.npz", target=np.eye(3))
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes())
    np.savez(tmp_path / "c.npz", target=2 * np.eye(3))

    def of(name):
        problem = {"kind": "matrix_completion", "file": name, "observed": 4}
        return parse_grid(json.dumps({"name": "g", "fixed": {**FIXED, "problem": problem}}), folder=tmp_path)

    assert ids(of("a.npz")) == ids(of("b.npz")) != ids(of("c.npz"))
    assert of("a.npz").trials[0].spec.shape == (3, 3)
    assert list(of("a.npz").files.contents.values()) == [(tmp_path / "a.npz").read_bytes()]


def test_measures_need_be_defined_for_some_trials_only():
    cases = [{"factorization": {"kind": "deep_matrix", "depth": 2}}, {"factorization": {"kind": "cp"}}]
    loaded = grid(fixed={k: v for k, v in FIXED.items() if k != "factorization"}, cases=cases, record={"measures": ["components"]})
    assert len(loaded.trials) == 2


YAMLISH = st.text(alphabet="ab: -[]{},#&*!|>'\"\n\t 01e.~%@`?\\", max_size=80)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), YAMLISH, st.binary(max_size=60).map(lambda b: b.decode("latin-1"))))
@example("a: &a [*a]")
@example("? [a]\n: b")
@example("? {a: b}\n: c")
@example("!!binary x: y")
@example("a: 1" + "0" * 5000)
@example("name: x\nfixed: {problem.kind.x: 1, problem: 3}")
def test_any_text_is_a_grid_or_a_message(text):
    try:
        parse_grid(text)
    except GridError as error:
        assert error.mistakes


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.sampled_from(["gd", "x", ""])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["kind", "a", "target", ""]), inner, max_size=2)),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_value_anywhere_is_a_grid_or_a_message(data):
    document = {
        "name": "g",
        "fixed": json.loads(json.dumps(FIXED)),
        "grid": {"factorization.depth": [1, 2]},
        "seeds": 2,
        "record": {"points": 3},
    }
    places = [(document, key) for key in document]
    places += [(document["fixed"], key) for key in document["fixed"]]
    places += [(section, key) for section in document["fixed"].values() for key in section]
    where, key = data.draw(st.sampled_from(range(len(places))).map(lambda n: places[n]))
    where[key] = data.draw(VALUES)
    try:
        parse_grid(yaml.safe_dump(document))
    except GridError as error:
        assert error.mistakes


def test_null_takes_away_what_was_set():
    loaded = grid(
        cases=[{"factorization.depth": 3}, {"factorization": {"kind": "nuclear_norm", "depth": None}, "init": None, "optimizer": None}]
    )
    trained, solved = (t.spec for t in loaded.trials)
    assert (trained.factorization.kind, trained.init.kind, trained.optimizer.kind) == ("deep_matrix", "gaussian", "gd")
    assert (solved.factorization.kind, solved.init, solved.optimizer) == ("nuclear_norm", None, None)
    assert solved.stop == trained.stop
    with pytest.raises(GridError, match=r"stop\.loss: is null, which takes away what was set, but nothing was"):
        grid(cases=[{"stop.loss": None}])


def test_random_draws_whole_sections_and_counts_each_draw_once():
    sections = [{"kind": "gd", "lr": 0.1}, {"kind": "momentum", "lr": 0.2, "momentum": 0.5}]
    drawn = grid(random={"samples": 8, "optimizer": {"choice": sections}})
    assert {(t.spec.optimizer.kind, t.spec.optimizer.lr) for t in drawn.trials} == {("gd", 0.1), ("momentum", 0.2)}
    assert drawn.extent.coinciding == 6
    few, many = (grid(random={"samples": n, "problem.observed": {"integers": [3, 8]}}) for n in (4, 60))
    assert sorted(t.spec.problem.observed for t in many.trials) == [3, 4, 5, 6, 7, 8]
    assert ids(many)[: len(few.trials)] == ids(few), "more samples begin with the fewer"


def test_a_fraction_is_the_count_that_it_is():
    problem = FIXED["problem"] | {"shape": [5, 5]}
    counted = {**problem, "observed": 12, "held_out": 5}
    of = [grid(fixed=FIXED | {"problem": one}) for one in (counted, {**problem, "observed": 0.48, "held_out": 0.2})]
    assert ids(of[0]) == ids(of[1])
    with pytest.raises(GridError, match="are the same trial"):
        grid(fixed=FIXED | {"problem": problem}, grid={"problem.observed": [12, 0.48]})
    with pytest.raises(GridError, match="counts measurements here"):
        grid(cases=[{"problem.observed": 5}, {"problem.observed": 0.56}], fixed=FIXED | {"problem": problem | {"kind": "matrix_sensing"}})


def test_noise_of_no_size_is_none():
    noisy = grid(grid={"problem.noise.std": [0, 0.1]})
    assert ids(noisy)[:1] == ids(grid())
    exact, drawn = (t.spec.problem.realize({}) for t in noisy.trials)
    assert np.array_equal(exact.target, exact.truth * exact.mask)
    assert not np.array_equal(drawn.target, exact.target)
