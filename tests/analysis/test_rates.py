"""Rates, means and medians of trials, and their bars: the numbers, beside numpy's and scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import bootstrap, norm

from tests.analysis.drawn import chart, encoding, panels, rows
from tests.analysis.made import results

ERRORS = {8: [0.5, 0.2, 0.009, 0.3], 16: [0.001, 0.5, 0.002, 0.003], 24: [0.001, 0.001, 0.002, 0.009]}
MADE = results([{"problem.observed": n, "seed": s, "error": e} for n, values in ERRORS.items() for s, e in enumerate(values)])
RATE = {"kind": "medians", "x": "problem.observed", "y": "rate(error < 1e-2)"}


def test_a_rate_is_the_share_of_trials_for_which_a_condition_holds():
    spec = chart(MADE, **RATE)
    assert [(row["x"], row["y"], row["trials"]) for row in rows(spec, spec)] == [(8, 0.25, 4), (16, 0.75, 4), (24, 1.0, 4)]
    y = encoding(spec)["y"]
    assert (y["title"], y["scale"]["domain"]) == ("share of trials with error < 1e-2", [0, 1])
    assert len(spec["layer"]) == 2, "it has bars only where asked"


def test_the_share_of_trials_has_the_interval_of_wilson():
    spec = chart(MADE, **RATE, bars="wilson")
    z = norm.ppf(0.975)
    for row, p in zip(rows(spec, spec), (0.25, 0.75, 1.0), strict=True):
        n = 4
        middle, half = (p + z**2 / (2 * n)) / (1 + z**2 / n), z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        assert (row["low"], row["high"]) == pytest.approx((middle - half, middle + half), abs=1e-9)


OUTCOMES = [("converged", 0.001), ("converged", 0.5), ("diverged", math.nan), ("failed", math.nan)]
MIXED = results([{"init.scale": 1.0, "seed": s, "outcome": outcome, "error": error} for s, (outcome, error) in enumerate(OUTCOMES)])


@pytest.mark.parametrize(
    ("condition", "share", "trials"),
    [
        ("error < 1e-2", 1 / 3, 3),
        ("error > 1e-2", 1 / 3, 3),
        ("not error < 1e-2", 1 / 3, 3),
        ("outcome == 'diverged'", 1 / 4, 4),
        ("error > 1e-2 or outcome == 'diverged'", 2 / 3, 3),
        ("seed < 3", 3 / 4, 4),
    ],
)
def test_a_diverged_trial_meets_no_condition_on_measures_and_a_failed_one_counts_not_at_all(condition, share, trials):
    spec = chart(MIXED, kind="medians", x="init.scale", y=f"rate({condition})")
    ((found, count),) = [(row["y"], row["trials"]) for row in rows(spec, spec)]
    assert (found, count) == (pytest.approx(share), trials)
    assert "infinite" not in json_of(spec)


def json_of(spec):
    return str([layer["encoding"].get("tooltip") for layer in spec["layer"]])


BARRED = {"kind": "medians", "x": "problem.observed", "y": "error"}


@pytest.mark.parametrize(
    ("figure", "title"),
    [
        (BARRED, ["median of error", "with quartiles"]),
        (BARRED | {"statistic": "mean", "bars": "sem"}, ["mean of error", "± standard error"]),
        (BARRED | {"bars": "none"}, "median of error"),
        (BARRED | {"where": "seed == 0"}, "median of error"),
        (BARRED | {"labels": {"y": "reconstruction error"}}, "reconstruction error"),
        (RATE | {"bars": "wilson"}, ["share of trials with error < 1e-2", "with a 95 % interval"]),
    ],
)
def test_an_axis_says_of_what_statistic_it_is_unless_it_is_told(figure, title):
    axes = [layer["encoding"]["y"]["title"] for layer in chart(MADE, **figure)["layer"]]
    assert axes == [title] * len(axes)


def test_a_map_and_curves_over_seeds_say_it_too():
    heatmap = chart(MADE, kind="heatmap", x="problem.observed", y="seed", color="error", statistic="mean")
    assert encoding(heatmap)["color"]["title"] == "mean of error"
    traced = results([{"seed": s} for s in range(3)], lambda trial: {"loss": [1.0, 0.5 + trial["seed"]]})
    bands = chart(traced, kind="trajectories", y="loss", band="range")
    assert encoding(panels(bands)[0]["layer"][0])["y"]["title"] == ["median of loss", "with the range"]
    assert encoding(chart(traced, kind="trajectories", y="loss"))["y"]["title"] == "loss"


def test_a_map_of_rates_has_all_shares_in_its_colours():
    spec = chart(MADE, kind="heatmap", x="problem.observed", y="seed", color="rate(error < 1e-2)")
    found = {(row["x"], row["y"]): row["value"] for row in rows(spec, spec)}
    assert found == {(str(n), str(s)): float(e < 1e-2) for n, values in ERRORS.items() for s, e in enumerate(values)}
    assert encoding(spec)["color"]["scale"]["domain"] == [0, 1]
    assert encoding(spec)["color"]["title"] == "share of trials with error < 1e-2"


@pytest.mark.parametrize(
    ("bars", "half"),
    [("std", lambda x: np.std(x, ddof=1)), ("sem", lambda x: np.std(x, ddof=1) / np.sqrt(len(x))), ("none", lambda x: 0.0 * len(x))],
)
def test_means_with_their_bars(bars, half):
    spec = chart(MADE, kind="medians", x="problem.observed", y="error", statistic="mean", bars=bars)
    for row, values in zip(rows(spec, spec), ERRORS.values(), strict=True):
        mean = np.mean(values)
        assert (row["low"], row["y"], row["high"]) == pytest.approx((mean - half(values), mean, mean + half(values)), rel=1e-8)
    assert len(spec["layer"]) == (2 if bars == "none" else 3)


@pytest.mark.parametrize(("statistic", "of"), [("median", np.median), ("mean", np.mean)])
def test_bootstrap_intervals_are_those_of_scipy(statistic, of):
    spec = chart(MADE, kind="medians", x="problem.observed", y="error", statistic=statistic, bars="bootstrap")
    for row, values in zip(rows(spec, spec), ERRORS.values(), strict=True):
        found = bootstrap((values,), of, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)).confidence_interval
        assert (row["low"], row["y"], row["high"]) == pytest.approx((found.low, of(values), found.high), rel=1e-8)


def test_a_map_of_means():
    spec = chart(MADE, kind="heatmap", x="problem.observed", y="problem.observed", color="error", statistic="mean")
    assert [row["value"] for row in rows(spec, spec)] == pytest.approx([np.mean(values) for values in ERRORS.values()])


def test_a_mean_with_one_infinite_value_is_infinite():
    trials = [
        {"init.scale": x, "seed": s, "outcome": "diverged" if x == 2 and s == 0 else "converged", "error": 1.0 + s}
        for x in (1, 2)
        for s in range(4)
    ]
    spec = chart(results(trials), kind="medians", x="init.scale", y="error", statistic="mean", bars="sem")
    assert [(row["x"], row["y"], row["infinite"]) for row in rows(spec, spec)] == [(1, 2.5, 0), (2, None, 1)]
    (mark,) = [layer for layer in spec["layer"] if "size" in layer["encoding"]]
    assert [(row["x"], row["over"]) for row in rows(mark, spec)] == [(2, "some diverged")]
    assert mark["encoding"]["y"] == {"value": 6}


def test_each_item_of_y_has_the_bars_that_it_can_have():
    spec = chart(MADE, kind="medians", x="problem.observed", y=["error", "rate(error < 1e-2)"], bars="iqr", log="error")
    error, rate = panels(spec)
    assert [len(panel["layer"]) for panel in (error, rate)] == [3, 2]
    assert [row["low"] for row in rows(error, spec)] == pytest.approx([np.percentile(values, 25) for values in ERRORS.values()])
