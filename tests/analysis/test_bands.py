"""Trajectories over seeds: the statistic and its band at the same place of the axis, beside numpy's; and baselines beside traces."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from orchestrator.analysis.charts.bands import POINTS, Band
from orchestrator.analysis.charts.groups import ends_of
from orchestrator.analysis.results import Results
from orchestrator.grid.figures import FIGURES
from tests.analysis.drawn import chart, layers_with, panels, rows
from tests.analysis.made import results


def band(log_x=False, log_y=False, statistic="median", band="iqr", lasting=True, points=POINTS):
    return Band(log_x, log_y, statistic, band, lasting, points)


def a(*values):
    return np.array(values, dtype=np.float64)


def test_trials_that_recorded_at_different_steps_meet_on_one_axis():
    grids = [a(0, 3, 10), a(0, 5, 7, 10), a(0, 1, 10)]
    curves = [(x, y) for x, y in zip(grids, (a(0, 3, 10), a(2, 7, 9, 12), a(5, 6, 15)), strict=True)]
    found = band(points=11).of(curves)
    assert found["x"].to_numpy() == pytest.approx(np.arange(11))
    each = np.stack([np.arange(11.0) + offset for offset in (0, 2, 5)])
    low, middle, high = np.percentile(each, [25, 50, 75], axis=0)
    for name, expected in (("low", low), ("value", middle), ("high", high)):
        assert found[name].to_numpy() == pytest.approx(expected)
    assert set(found["trials"]) == {3}


def test_between_two_steps_a_trial_goes_straight_on_the_axes_as_they_are():
    curves = [(a(1, 10_000), a(1, 1e-8))]
    straight, logarithmic = (band(log_x=log, log_y=log, points=5).of(curves) for log in (False, True))
    assert logarithmic["x"].to_numpy() == pytest.approx([1, 10, 100, 1000, 10_000])
    assert logarithmic["value"].to_numpy() == pytest.approx([1, 1e-2, 1e-4, 1e-6, 1e-8])
    assert straight["x"].to_numpy() == pytest.approx(np.linspace(1, 10_000, 5))
    assert straight["value"].to_numpy() == pytest.approx(np.linspace(1, 1e-8, 5))


@pytest.mark.parametrize(("statistic", "of"), [("median", np.median), ("mean", np.mean)])
@pytest.mark.parametrize("log_y", [False, True])
def test_the_statistic_is_of_the_values_themselves(statistic, of, log_y):
    curves = [(a(0, 1), a(y, y)) for y in (1.0, 2.0, 100.0)]
    (value,) = set(band(log_y=log_y, statistic=statistic, points=2).of(curves)["value"].round(9))
    assert value == pytest.approx(of([1, 2, 100]))


@pytest.mark.parametrize("name", ["iqr", "range", "std", "sem"])
def test_bands_are_as_bars(name):
    values = a(1, 2, 4, 10)
    found = band(statistic="mean", band=name, points=2).of([(a(0, 1), a(y, y)) for y in values])
    assert (found["low"][0], found["high"][0]) == pytest.approx(ends_of(values, values.mean(), "mean", name))
    expected = {
        "iqr": np.percentile(values, [25, 75]),
        "range": (1, 10),
        "std": values.mean() + np.std(values, ddof=1) * a(-1, 1),
        "sem": values.mean() + np.std(values, ddof=1) / 2 * a(-1, 1),
    }[name]
    assert (found["low"][0], found["high"][0]) == pytest.approx(tuple(expected))


def test_over_steps_a_trial_that_has_ended_keeps_its_last_value():
    found = band(statistic="mean", points=11).of([(a(0, 4), a(4, 0)), (a(0, 10), a(10, 0))])
    first = np.clip(4 - np.arange(11), 0, None)
    assert found["value"].to_numpy() == pytest.approx((first + 10 - np.arange(11)) / 2)
    assert set(found["trials"]) == {2}


def test_a_diverged_trial_is_infinite_from_where_it_diverged_on():
    curves = [(a(0, 2, 6), a(1, 3, np.inf)), (a(0, 10), a(5, 5)), (a(0, 10), a(6, 6))]
    found = band(band="range", points=11).of(curves)
    assert list(found["infinite"]) == [0] * 6 + [1] * 5
    assert found["low"].to_numpy() == pytest.approx([1, 2, 3, 3, 3, 3, 5, 5, 5, 5, 5])
    assert found["value"].to_numpy() == pytest.approx([5] * 6 + [6] * 5)
    assert list(found["high"]) == [6] * 6 + [np.inf] * 5
    assert list(band(statistic="mean", points=11).of(curves)["value"][6:]) == [np.inf] * 5


def test_over_a_measure_a_trial_has_a_value_as_far_as_it_got_from_when_it_first_got_there():
    back = (a(1.0, 0.5, 0.7, 0.25), a(0, 10, 99, 20))
    found = band(lasting=False, points=4).of([back])
    assert found["x"].to_numpy() == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found["value"].to_numpy() == pytest.approx([20, 10, 5, 0])
    short = [(a(1.0, 0.5), a(0, 10))] * 2
    found = band(lasting=False, points=4).of([back, *short])
    assert found["x"].to_numpy() == pytest.approx([0.5, 0.75, 1.0]), "one of three is less than half"
    assert list(found["trials"]) == [3, 3, 3]
    assert len(band(lasting=False, points=4).of([back, short[0]])) == 4


def falling(trial):
    return {"loss": np.geomspace(1, 10.0 ** -trial["rate"], 5) * (1 + trial["seed"])}


SETTINGS = [{"optimizer.lr": lr, "init.scale": x, "rate": lr * 10} for lr in (0.1, 0.2) for x in (1.0, 2.0)]
MADE = results([{**setting, "seed": s, "problem.seed": s} for setting in SETTINGS for s in range(3)], falling)


def test_there_is_a_curve_for_each_setting_with_a_band():
    spec = chart(MADE, kind="trajectories", y="loss", color="optimizer.lr", band="range", log="y")
    areas = [layer for layer in spec["layer"] if layer["mark"]["type"] == "area"]
    assert len(areas) == 1
    found = pd.DataFrame(rows(areas[0], spec))
    assert found.groupby("color")["trial"].nunique().to_dict() == {"0.1": 2, "0.2": 2}
    assert set(found["trials"]) == {3}
    at_end = found[found["x"] == 4].drop_duplicates("color").set_index("color")
    for lr in (0.1, 0.2):
        end = 10.0 ** (-lr * 10)
        assert tuple(at_end.loc[str(lr), ["low", "y", "high"]]) == pytest.approx((end, 2 * end, 3 * end))
    (line,) = [layer for layer in spec["layer"] if layer["mark"]["type"] == "line"]
    assert line["encoding"]["detail"]["field"] == "trial"
    titles = [tip.get("title") for tip in line["encoding"]["tooltip"]]
    assert "init.scale" in titles
    assert "seed" not in titles


def test_a_statistic_alone_has_no_band():
    spec = chart(MADE, kind="trajectories", y="loss", statistic="mean", where="init.scale == 1")
    assert [layer["mark"]["type"] for layer in spec["layer"]] == ["line"] if "layer" in spec else spec["mark"]["type"] == "line"
    found = pd.DataFrame(rows(spec, spec))
    assert set(found[found["x"] == 0]["y"]) == {2.0}


def test_divergence_over_seeds_is_marked_where_it_begins():
    def ending(trial):
        return {"loss": [1.0, 0.5, np.nan if trial["outcome"] == "diverged" else 0.25]}

    trials = [
        {"optimizer.lr": lr, "seed": s, "outcome": "diverged" if s < n else "converged"} for lr, n in ((0.1, 1), (1.0, 3)) for s in range(4)
    ]
    spec = chart(results(trials, ending), kind="trajectories", y="loss", color="optimizer.lr", band="iqr")
    marked = [(row["color"], row["x"], row["over"]) for found in layers_with(spec, spec, size="over") for row in found]
    assert sorted(marked) == [("0.1", 2, "some diverged"), ("1", 2, "half or more diverged")]
    lines = pd.DataFrame(rows(next(layer for layer in spec["layer"] if layer["mark"]["type"] == "line"), spec))
    assert lines.groupby("color")["x"].max().to_dict() == {"0.1": 2, "1": pytest.approx(2, abs=2 / 150)}
    assert lines[(lines["color"] == "1")]["x"].max() < 2


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"band": "std"}, "band"),
        ({"band": "iqr", "color": "step"}, "color"),
        ({"band": "iqr", "color": "log10(loss)"}, "color"),
        ({"statistic": "mean", "shape": "init.kind"}, "shape"),
        ({"band": "none", "mark": "point"}, "mark"),
    ],
)
def test_what_goes_with_no_band(keys, field):
    figure = FIGURES["trajectories"].model_validate({"kind": "trajectories", "y": "loss", **keys})
    assert [found for found, _ in figure.own_conflicts()] == [field]


TRAINED = [
    {"factorization.kind": "deep_matrix", "factorization.depth": d, "optimizer.kind": "gd", "problem.observed": n, "seed": s}
    for d in (2, 3)
    for n in (8, 16)
    for s in range(2)
]
LINEAR = [{"factorization.kind": "linear", "optimizer.kind": "gd", "problem.observed": n, "seed": 0} for n in (8, 16)]
SOLVED = [{"factorization.kind": "nuclear_norm", "problem.observed": n, "seed": 0} for n in (8, 16)]


def errors(trial):
    return {"loss": [1.0, 0.5, 0.25], "error": [1.0, 0.5, 1 / trial["problem.observed"]]}


BESIDE = results(TRAINED + LINEAR + SOLVED, errors)


@pytest.mark.parametrize("more", [{}, {"band": "iqr"}])
def test_baselines_are_beside_the_traces_of_every_panel(more):
    spec = chart(BESIDE, kind="trajectories", y="error", color="problem.observed", facet="factorization.depth", **more)
    assert [panel["title"]["text"] for panel in panels(spec)] == ["factorization.depth 2", "factorization.depth 3"]
    for panel in panels(spec):
        by_mark = {layer["mark"]["type"]: rows(layer, spec) for layer in panel["layer"] if "strokeDash" in layer["encoding"]}
        assert by_mark.keys() == {"line", "rule"}
        curve = pd.DataFrame(by_mark["line"])
        assert set(curve["line"]) == {"linear"}
        assert curve[curve["x"] == 2].set_index("color")["y"].to_dict() == pytest.approx({"8": 1 / 8, "16": 1 / 16})
        # It was solved: its steps are a solver's.
        level = pd.DataFrame(by_mark["rule"])
        assert set(level["line"]) == {"nuclear_norm"}
        assert level.set_index("color")["y"].to_dict() == pytest.approx({"8": 1 / 8, "16": 1 / 16})


@pytest.mark.parametrize("color", ["step", "problem.observed"])
def test_what_a_baseline_lacks_is_nothing_that_json_has_no_word_for(color):
    spec = chart(BESIDE, kind="trajectories", x="loss", y="error", color=color, log="color")
    assert "nuclear_norm" in json.dumps(spec, allow_nan=False)


def test_trials_that_are_all_solved_are_traces_as_any():
    spec = chart(results(SOLVED, errors), kind="trajectories", y="error")
    assert len(rows(spec, spec)) == 6


def test_over_a_measure_what_is_solved_has_a_trace():
    spec = chart(BESIDE, kind="trajectories", x="loss", y="error", color="factorization.depth")
    found = {row["line"] for layer in spec["layer"] if "strokeDash" in layer["encoding"] for row in rows(layer, spec)}
    assert found == {"linear", "nuclear_norm"}
    assert all(layer["mark"]["type"] == "line" for layer in spec["layer"])


def test_a_baseline_without_a_measure_is_not_drawn():
    made = results(TRAINED + LINEAR, errors)
    history = made.history.copy()
    history.loc[history["trial_id"].isin(made.runs["trial_id"][made.runs["factorization.kind"] == "linear"]), "error"] = np.nan
    spec = chart(Results(made.runs, lambda: history), kind="trajectories", y="error", facet="factorization.depth")
    assert all("strokeDash" not in layer["encoding"] for panel in panels(spec) for layer in panel.get("layer", [panel]))


def test_tooltips_list_the_keys_that_vary_once_a_trial():
    spec = chart(BESIDE, kind="trajectories", y="loss", where="factorization.kind == 'deep_matrix'")
    titles = [tip.get("title") for tip in spec["encoding"]["tooltip"]]
    assert titles == ["trial", "step", "loss", "factorization.depth", "problem.observed", "seed"]
    (lookup,) = spec["transform"]
    table = spec["datasets"][lookup["from"]["data"]["name"]] if "name" in lookup["from"]["data"] else lookup["from"]["data"]["values"]
    assert len(table) == 8
    assert list(table[0].values()) == ["trial0", "2", "8", "0"]
    assert len(rows(spec, spec)[0]) == 4
