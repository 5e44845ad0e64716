"""Baselines: trials without a key that a figure goes by are drawn beside the others, and named."""

from __future__ import annotations

import numpy as np
import pytest

from tests.analysis.drawn import chart, layers_with, panels
from tests.analysis.made import results

TRAINED = [
    {
        "factorization.kind": "deep_matrix",
        "factorization.depth": d,
        "init.scale": x,
        "problem.observed": n,
        "seed": s,
        "error": d + x + s / n,
    }
    for d in (2, 3)
    for x in (0.1, 1.0)
    for n in (8, 16)
    for s in range(3)
]
LEAST = [{"factorization.kind": "nuclear_norm", "problem.observed": n, "seed": s, "error": 10.0 * n + s} for n in (8, 16) for s in range(3)]
MADE = results(TRAINED + LEAST)
MEDIANS = {"kind": "medians", "y": "error"}


def test_a_baseline_without_the_facet_is_a_curve_in_every_panel():
    spec = chart(MADE, **MEDIANS, x="problem.observed", color="init.scale", facet="factorization.depth")
    assert [panel["title"]["text"] for panel in panels(spec)] == ["factorization.depth 2", "factorization.depth 3"]
    for depth, panel in zip((2, 3), panels(spec), strict=True):
        (beside,) = layers_with(panel, spec, strokeDash="line")
        assert [(row["line"], row["x"], row["y"]) for row in beside] == [("nuclear_norm", 8, 81), ("nuclear_norm", 16, 161)]
        (layer,) = [layer for layer in panel["layer"] if "strokeDash" in layer["encoding"]]
        assert layer["mark"]["color"] == "black"
        assert layer["encoding"]["strokeDash"]["scale"]["domain"] == ["nuclear_norm"]
        own = layers_with(panel, spec, y="y")[0]
        assert {(row["x"], row["color"]): row["y"] for row in own} == {
            (n, color): pytest.approx(depth + float(color) + 1 / n) for n in (8, 16) for color in ("0.1", "1")
        }


def test_a_baseline_at_a_single_place_of_the_axis_is_a_point():
    spec = chart(MADE, **MEDIANS, x="factorization.kind", color="init.scale", bars="none", where="problem.observed == 8")
    (layer,) = [layer for layer in spec["layer"] if layer["mark"].get("shape") == "diamond"]
    (row,) = spec["datasets"][layer["data"]["name"]]
    assert (row["x"], row["y"], row["line"]) == ("nuclear_norm", 81, "nuclear_norm")
    curve = chart(MADE, **MEDIANS, x="problem.observed", color="init.scale", bars="none")
    assert not [layer for layer in curve["layer"] if layer["mark"].get("shape") == "diamond"], "there is a line"


def test_a_baseline_without_the_axis_is_a_line_across_the_panel_of_its_facet():
    spec = chart(MADE, **MEDIANS, x="factorization.depth", color="init.scale", facet="problem.observed")
    for middle, panel in zip((81, 161), panels(spec), strict=True):
        (layer,) = [layer for layer in panel["layer"] if "strokeDash" in layer["encoding"]]
        assert layer["mark"]["type"] == "rule"
        assert "x" not in layer["encoding"]
        (beside,) = layers_with(panel, spec, strokeDash="line")
        assert [(row["line"], row["y"], row["trials"]) for row in beside] == [("nuclear_norm", middle, 3)]


def test_a_baseline_that_has_a_colour_keeps_it():
    spec = chart(MADE, **MEDIANS, x="init.scale", color="problem.observed", bars="none")
    (layer,) = [layer for layer in spec["layer"] if "strokeDash" in layer["encoding"]]
    assert layer["encoding"]["color"]["field"] == "color"
    (beside,) = layers_with(spec, spec, strokeDash="line")
    assert {row["color"]: row["y"] for row in beside} == {"8": 81, "16": 161}


def test_lines_and_baselines_share_a_legend():
    spec = chart(MADE, **MEDIANS, x="factorization.depth", lines={"error": {"noise": 0.5}})
    domains = [layer["encoding"]["strokeDash"]["scale"] for layer in spec["layer"] if "strokeDash" in layer["encoding"]]
    assert len(domains) == 2
    assert all(scale["domain"] == ["noise", "nuclear_norm"] and len({str(dash) for dash in scale["range"]}) == 2 for scale in domains)


def test_a_log_axis_has_room_for_a_baseline():
    spec = chart(MADE, **MEDIANS, x="factorization.depth", log="y")
    low, high = spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert low < 2.1
    assert high > 160


def test_trials_without_a_key_that_are_no_other_kind_are_named_by_what_they_have_or_lack():
    some = [{"init.scale": x, "seed": s, "error": x} for x in (0.1, 1.0) for s in range(2)]
    other = [{"init.product_scale": 0.5, "seed": s, "error": 9.0} for s in range(2)]
    spec = chart(results(some + other), **MEDIANS, x="init.scale")
    assert {row["line"] for row in layers_with(spec, spec, strokeDash="line")[0]} == {"init.product_scale 0.5"}
    many = [{"init.product_scale": x, "seed": 0, "error": 9.0} for x in np.linspace(1, 2, 9)]
    spec = chart(results(some + many), **MEDIANS, x="init.scale")
    assert {row["line"] for row in layers_with(spec, spec, strokeDash="line")[0]} == {"without init.scale"}


def test_trials_that_meet_no_condition_of_a_mapping_are_left_out_still():
    spec = chart(MADE, **MEDIANS, x="problem.observed", facet={"two": "factorization.depth == 2", "three": "factorization.depth == 3"})
    assert all(not layers_with(panel, spec, strokeDash="line") for panel in panels(spec))


def test_a_baseline_that_diverged_is_marked():
    worse = [{**trial, "outcome": "diverged", "error": np.nan} for trial in LEAST]
    spec = chart(results(TRAINED + worse), **MEDIANS, x="problem.observed", color="factorization.depth")
    (marked,) = layers_with(spec, spec, size="over")
    assert [(row["line"], row["x"], row["over"]) for row in marked] == [("nuclear_norm", n, "half or more diverged") for n in (8, 16)]


def test_a_rate_of_a_baseline_is_a_share_too():
    spec = chart(MADE, kind="medians", x="factorization.depth", y="rate(error < 82)")
    (beside,) = layers_with(spec, spec, strokeDash="line")
    assert [(row["line"], row["y"], row["trials"]) for row in beside] == [("nuclear_norm", pytest.approx(2 / 6), 6)]
