"""What a page of a figure does: tooltips with the keys that vary, zoom of axes that are shared or not, colours picked in the legend."""

from __future__ import annotations

import numpy as np
import pytest

from tests.analysis.drawn import chart, panels
from tests.analysis.made import results

TRIALS = [
    {"factorization.kind": "deep_matrix", "factorization.depth": d, "init.scale": x, "init.balanced": b, "seed": s, "problem.seed": s}
    for d in (2, 3)
    for x in (0.1, 1.0)
    for b in (False, True)
    for s in range(2)
]
MADE = results(TRIALS, lambda trial: {"loss": np.geomspace(1, 1e-3, 4), "error": np.geomspace(1, trial["init.scale"] / 100, 4)})
FIGURES = {
    "trajectories": {"y": "loss", "color": "init.scale", "facet": "factorization.depth"},
    "medians": {"x": "factorization.depth", "y": "error", "color": "init.scale", "facet": "init.balanced"},
    "points": {"x": "loss", "y": "error", "color": "init.scale", "facet": "factorization.depth"},
    "threshold": {
        "x": "factorization.depth",
        "of": "seed",
        "when": "rate(error < 1) > 0.5",
        "color": "init.scale",
        "facet": "init.balanced",
    },
}


def layers(spec):
    return [layer for panel in panels(spec) for layer in panel.get("layer", [panel])]


def params(spec):
    return {param["name"]: param for param in spec.get("params", [])}


@pytest.mark.parametrize("kind", FIGURES)
def test_panels_that_share_their_axes_move_together_and_share_a_legend(kind):
    spec = chart(MADE, kind=kind, **FIGURES[kind])
    found = params(spec)
    assert found.keys() == {"zoom", "picked"}
    assert (found["zoom"]["bind"], found["picked"]["bind"]) == ("scales", "legend")
    names = {layer["name"] for layer in layers(spec) if "name" in layer}
    for param in found.values():
        assert set(param["views"]) == names
        assert len(names) == len(panels(spec)) == 2


@pytest.mark.parametrize("kind", FIGURES)
def test_what_is_not_picked_fades(kind):
    spec = chart(MADE, kind=kind, **FIGURES[kind])
    for layer in layers(spec):
        if layer["encoding"].get("color", {}).get("field") == "color":
            opacity = layer["encoding"]["opacity"]
            assert opacity["condition"]["param"] == "picked"
            assert opacity["value"] < 0.1 < opacity["condition"]["value"]


def test_panels_with_axes_of_their_own_move_alone():
    spec = chart(MADE, kind="medians", x="factorization.depth", y=["error", "loss"])
    found = params(spec)
    assert len(found) == 2
    assert all(name.startswith("zoom_") and len(param["views"]) == 1 for name, param in found.items())


@pytest.mark.parametrize("figure", [{"color": "step"}, {"color": "init.scale", "log": "color"}, {}])
def test_there_is_nothing_to_pick_in_a_scale_of_colours(figure):
    spec = chart(MADE, kind="trajectories", y="loss", **figure)
    assert "picked" not in str(spec)


def test_a_band_keeps_that_it_can_be_seen_through():
    spec = chart(MADE, kind="trajectories", y="loss", color="init.scale", band="iqr")
    (area,) = [layer for layer in layers(spec) if layer["mark"]["type"] == "area"]
    assert area["encoding"]["opacity"]["condition"]["value"] == area["mark"]["opacity"] == 0.2


KEYS = ["factorization.depth", "init.scale", "init.balanced"]


@pytest.mark.parametrize(
    ("kind", "shown", "seeds"),
    [
        ("medians", ["init.balanced"], []),
        ("points", ["init.balanced", "factorization.depth"], ["seed", "problem.seed"]),
        ("trajectories", ["init.balanced"], ["seed", "problem.seed"]),
        ("heatmap", ["init.balanced"], []),
    ],
)
def test_tooltips_have_the_keys_that_vary_by_their_names(kind, shown, seeds):
    figure = {
        "medians": {"x": "factorization.depth", "y": "error", "color": "init.scale"},
        "points": {"x": "loss", "y": "error", "color": "init.scale"},
        "trajectories": {"y": "loss", "color": "init.scale", "facet": "factorization.depth"},
        "heatmap": {"x": "factorization.depth", "y": "init.scale", "color": "error"},
    }[kind]
    spec = chart(MADE, kind=kind, **figure)
    for layer in layers(spec):
        titles = [tip["title"] for tip in layer["encoding"]["tooltip"]]
        assert [title for title in titles if title in (*shown, *seeds)] == [key for key in (*KEYS, *seeds) if key in (*shown, *seeds)]
        assert len(titles) == len(set(titles))
        assert "factorization.kind" not in titles, "it is the same for all"


def test_a_tooltip_of_a_group_says_what_its_trials_have_in_common():
    spec = chart(MADE, kind="medians", x="factorization.depth", y="error", where="init.balanced == true or factorization.depth == 2")
    tips = {tip["title"]: tip["field"] for tip in layers(spec)[0]["encoding"]["tooltip"]}
    layer = layers(spec)[0]
    found = spec["datasets"][layer["data"]["name"]] if "name" in layer["data"] else layer["data"]["values"]
    assert {row["x"]: row[tips["init.balanced"]] for row in found} == {2: "2 values", 3: "true"}
