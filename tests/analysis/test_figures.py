"""Figures: what is in a chart, read back from its Vega-Lite, and that every kind is drawn in every format."""

from __future__ import annotations

import json
import os
import re
import sys

import numpy as np
import pytest

from orchestrator.analysis import rendering as module
from orchestrator.analysis.charts.common import NothingToDraw
from orchestrator.analysis.charts.traces import MAX_ROWS
from orchestrator.analysis.figures import draw, spec_of
from orchestrator.analysis.rendering import FORMATS, cache_folder, rendered, rendering
from orchestrator.errors import UsageError
from orchestrator.grid.figures import FIGURES
from orchestrator.grid.questions import is_pattern, matching
from tests.analysis.drawn import chart, encoding, panels, rows
from tests.analysis.made import results


def falling(trial):
    loss = np.geomspace(1, 1e-4, 5)
    return {"loss": loss, "sv_0": 1 - loss, "sv_1": loss / 2}


TRIALS = [{"factorization.depth": d, "seed": s, "init.balanced": bool(s)} for d in (2, 3) for s in range(2)]
MADE = results(TRIALS, falling)


def test_a_pattern_stands_for_columns_of_modes_only_where_it_names_them():
    columns = ["sv_0", "sv_1", "sv_0_at_0_1", "sv_1_at_0_1", "sv_0_at_0_1_2", "entry_0_1", "loss"]
    assert matching("sv_*", columns) == ["sv_0", "sv_1"]
    assert matching("sv_*_at_0_1", columns) == ["sv_0_at_0_1", "sv_1_at_0_1"]
    assert matching("entry_*", columns) == ["entry_0_1"]
    assert matching("entry_*_at_0_1", columns) == []
    assert is_pattern("sv_*_at_0_1")
    assert not is_pattern("sv_0 * sv_1")


def test_trajectories_have_a_row_for_every_recorded_step():
    spec = chart(MADE, kind="trajectories", x="loss", y="sv_0 * 2", color="step", log=["x"], facet="factorization.depth")
    assert [panel["title"]["text"] for panel in panels(spec)] == ["factorization.depth 2", "factorization.depth 3"]
    for panel in panels(spec):
        found = rows(panel, spec)
        assert sorted({row["trial"] for row in found}) in (["trial0", "trial1"], ["trial2", "trial3"])
        assert [row["y"] for row in found[:5]] == pytest.approx(list(2 * (1 - np.geomspace(1, 1e-4, 5))))
        assert encoding(panel)["x"]["scale"]["type"] == "log"
        assert encoding(panel)["color"]["type"] == "quantitative"


def test_what_a_log_axis_cannot_show_is_left_out():
    spec = chart(MADE, kind="trajectories", x="step", y="sv_0", log=["x", "y"], where="seed == 0 and factorization.depth == 2")
    assert [row["step"] for row in rows(panels(spec)[0], spec)] == [1, 2, 3, 4]


def test_a_pattern_draws_each_column_in_its_colour():
    spec = chart(MADE, kind="trajectories", y="sv_*", where="seed == 0", facet="factorization.depth")
    panel = panels(spec)[0]
    assert {row["color"] for row in rows(panel, spec)} == {"sv_0", "sv_1"}
    assert encoding(panel)["color"]["scale"]["domain"] == ["sv_0", "sv_1"]
    assert encoding(panel)["detail"]["field"] == "trial"


def test_curves_are_formulas_in_x():
    spec = chart(MADE, kind="trajectories", x="loss", y="sv_0", curves={"half": "loss / 2"}, log="x")
    layers = panels(spec)[0]["layer"]
    curve = spec["datasets"][layers[1]["data"]["name"]] if "name" in layers[1]["data"] else layers[1]["data"]["values"]
    assert [row["y"] for row in curve] == pytest.approx([row["x"] / 2 for row in curve], rel=1e-8)


def test_conditions_label_trials_and_leave_out_the_rest():
    color = {"plain": "init.balanced == false and factorization.depth == 2", "balanced": "init.balanced == true"}
    spec = chart(MADE, kind="trajectories", y="loss", color=color)
    found = {row["trial"]: row["color"] for row in rows(spec, spec)}
    assert found == {"trial0": "plain", "trial1": "balanced", "trial3": "balanced"}
    assert encoding(spec)["color"]["scale"]["domain"] == ["plain", "balanced"]


def test_medians_and_quartiles_over_seeds():
    errors = {0: [1.0, 2.0, 3.0, 10.0], 1: [4.0, 4.0, 5.0, 6.0]}
    made = results([{"problem.observed": 50 + n, "seed": s, "error": e} for n, values in errors.items() for s, e in enumerate(values)])
    spec = chart(made, kind="medians", x="problem.observed", y=["error", "error ** 2"], log="error", lines={"error": {"truth": 1}})
    assert len(panels(spec)) == 2
    for (x, values), row in zip(errors.items(), rows(panels(spec)[0], spec), strict=True):
        low, middle, high = np.percentile(values, [25, 50, 75])
        assert (row["x"], row["low"], row["y"], row["high"], row["trials"]) == (50 + x, low, middle, high, 4)
    assert [panel["layer"][0]["encoding"]["y"]["scale"]["type"] for panel in panels(spec)] == ["log", "linear"]
    assert [len(panel["layer"]) for panel in panels(spec)] == [4, 3]
    whole = chart(made, kind="medians", x="problem.observed", y="error", bars="range")
    assert [(row["low"], row["high"]) for row in rows(whole, whole)] == [(1, 10), (4, 6)]


def test_a_spectrum_has_a_statistic_of_each_numbered_measure_by_its_number():
    values = {(depth, seed, k): depth * 10.0**-k * (1 + seed) for depth in (2, 3) for seed in range(3) for k in range(11)}
    trials = [
        {"a.depth": d, "seed": s} | {f"sv_{k}": values[d, s, k] for k in range(11) if (d, k) != (2, 10)} for d in (2, 3) for s in range(3)
    ]
    made = results([{**trial, "sv_W1_0": 5.0, "sv_0_at_0_1": 7.0} for trial in trials])
    spec = chart(made, kind="spectrum", y="sv_*", color="a.depth", bars="range", log="y")
    found = {(row["color"], row["x"]): (row["low"], row["y"], row["high"], row["trials"]) for row in rows(spec, spec)}
    # Of depth 2 there is no eleventh.
    expected = {(str(d), k + 1): (*(values[d, s, k] for s in range(3)), 3) for d in (2, 3) for k in range(11) if (d, k) != (2, 10)}
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(expected[key]) for key in found)
    with pytest.raises(UsageError, match=r"no numbered measures of the runs are called rank_\*"):
        chart(made, kind="spectrum", y="rank_*")
    wrong = FIGURES["spectrum"].model_validate({"kind": "spectrum", "y": "sv_0", "bars": "sem"})
    assert dict(wrong.own_conflicts()) == {
        "y": "must stand for numbered columns, as sv_* does, not 'sv_0'",
        "bars": "sem goes with statistic: mean",
    }


def test_heatmap_has_the_median_of_each_cell():
    made = results([{"a.x": x, "a.y": y, "seed": s, "error": x * y + 10 * (s == 2)} for x in (1, 10) for y in (2, 20) for s in range(3)])
    spec = chart(made, kind="heatmap", x="a.x", y="a.y", color="error", log="color")
    assert {(row["x"], row["y"]): row["value"] for row in rows(spec, spec)} == {
        ("1", "2"): 2,
        ("1", "20"): 20,
        ("10", "2"): 20,
        ("10", "20"): 200,
    }
    assert spec["encoding"]["x"]["sort"] == ["1", "10"]
    assert spec["encoding"]["y"]["sort"] == ["20", "2"], "small values belong at the bottom"


def test_points_have_one_row_a_trial():
    spec = chart(MADE, kind="points", x="sv_0", y="loss", color="factorization.depth", log="y")
    assert len(rows(spec, spec)) == 4


def test_long_traces_are_thinned_and_keep_their_ends():
    made = results([{"seed": s} for s in range(10)], lambda trial: {"loss": np.linspace(1, trial["seed"] + 2, 12_000)})
    spec = chart(made, kind="trajectories", y="loss")
    found = rows(spec, spec)
    assert MAX_ROWS / 2 < len(found) <= MAX_ROWS + 10
    ends = {}
    for row in found:
        ends[row["trial"]] = (row["step"], row["y"])
    assert ends == {f"trial{s}": (11_999, s + 2.0) for s in range(10)}


KINDS = {
    "trajectories": {"x": "loss", "y": "sv_0", "color": "step", "shape": "init.balanced", "log": ["x", "color"], "curves": {"c": "loss"}},
    "medians": {"x": "factorization.depth", "y": ["loss", "sv_0"], "color": "init.balanced", "log": "loss"},
    "heatmap": {"x": "factorization.depth", "y": "seed", "color": "sv_1"},
    "points": {"x": "sv_0", "y": "sv_1", "facet": "init.balanced"},
    "threshold": {"x": "factorization.depth", "of": "seed", "when": "rate(loss < 1) >= 0.5", "color": "init.balanced"},
    "spectrum": {"y": "sv_*", "color": "init.balanced", "facet": "factorization.depth", "log": "y"},
}


@pytest.mark.parametrize("kind", FIGURES)
def test_every_kind_is_drawn_in_every_format_and_needs_no_network(kind):
    files = rendered(spec_of(draw(FIGURES[kind].model_validate({"kind": kind, "title": "A <title>", **KINDS[kind]}), MADE)))
    assert list(files) == list(FORMATS)
    assert files["png"].startswith(b"\x89PNG")
    assert files["pdf"].startswith(b"%PDF")
    assert files["svg"].startswith(b"<svg")
    page = files["html"].decode()
    assert "<script src" not in page
    assert "cdn.jsdelivr" not in page.split("vegaEmbed")[0][:2000]
    json.loads(json.dumps(draw(FIGURES[kind].model_validate({"kind": kind, **KINDS[kind]}), MADE).to_dict(), allow_nan=False))


def test_a_title_from_elsewhere_is_no_script():
    hostile = "</script><script>alert(1)</script>"
    figure = {"kind": "points", "x": "sv_0", "y": "sv_1", "title": hostile, "labels": {"x": hostile}, "color": {hostile: "seed >= 0"}}
    files = rendered(spec_of(draw(FIGURES["points"].model_validate(figure), MADE)), ["html", "svg"])
    page = files["html"].decode()
    assert "<script>alert" not in page
    (written,) = [line for line in page.splitlines() if line.strip().startswith("const spec = ")]
    spec = json.loads(written.strip().removeprefix("const spec = ").rstrip(";"))
    assert spec["title"]["text"] == hostile
    assert b"<script>" not in files["svg"]


@pytest.mark.parametrize("hostile", ["a\u2028b", "a\u2029b", "a\0b", "a\x1b[2Jb", "a\nb"])
def test_what_cannot_be_seen_does_not_keep_a_figure_from_being_drawn(hostile):
    texts = {"title": hostile, "labels": {"x": hostile, "color": hostile}, "color": {hostile: "seed == 0", "other": "seed > 0"}}
    kinds = {
        "points": {"x": "sv_0", "y": "sv_1", "facet": {hostile: "seed >= 0"}},
        "trajectories": {"y": "loss", "curves": {hostile: "step / 2"}},
        "medians": {"x": "factorization.depth", "y": "loss"},
    }
    for kind, keys in kinds.items():
        figure = FIGURES[kind].model_validate({"kind": kind, **keys, **texts})
        files = rendered(spec_of(draw(figure, MADE)))
        assert list(files) == list(FORMATS)
        assert hostile not in files["svg"].decode()


def spec_with(title: str) -> str:
    return spec_of(draw(FIGURES["points"].model_validate({"kind": "points", "x": "sv_0", "y": "sv_1", "title": title}), MADE))


def test_charts_are_rendered_beside_each_other_as_they_are_alone(monkeypatch, tmp_path):
    specs = [spec_with(title) for title in ("one", "two")]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a"))
    with rendering(["svg", "html"], len(specs)) as renderer:
        beside = [future.result() for future in [renderer.start(spec) for spec in specs]]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    alone = [rendered(spec, ["svg", "html"]) for spec in specs]
    assert [files["html"] for files in beside] == [files["html"] for files in alone]
    # The renderer numbers what it clips, on and on.
    for one, other in zip(beside, alone, strict=True):
        assert re.sub(rb"clip\d+", b"", one["svg"]) == re.sub(rb"clip\d+", b"", other["svg"])
    assert b">one<" in beside[0]["svg"]
    assert b">two<" in beside[1]["svg"]


def test_what_the_renderer_cannot_do_ends_no_other_chart():
    with rendering(["svg"], 2) as renderer:
        broken, sound = renderer.start('{"mark": "none of these"}'), renderer.start(spec_with("sound"))
        with pytest.raises(ValueError, match="conversion failed: TypeError"):
            broken.result()
        assert b">sound<" in sound.result()["svg"]


def test_a_chart_that_ends_the_renderer_ends_no_other():
    with rendering(["svg"], 2) as renderer:
        # Its renderer ends the process at a NUL.
        killer, sound = renderer.start(json.dumps(json.loads(spec_with("x")) | {"title": "a\0b"})), renderer.start(spec_with("sound"))
        with pytest.raises(ValueError, match="the renderer has crashed"):
            killer.result()
        assert b">sound<" in sound.result()["svg"]


def test_a_chart_is_rendered_once_and_kept_for_as_long_as_there_is_room(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = spec_with("kept")
    files = rendered(spec, ["svg"])
    with monkeypatch.context() as patch:
        patch.setattr(module, "_draw", lambda *_: pytest.fail("it was rendered again"))
        assert rendered(spec, ["svg"]) == files
    for path in cache_folder().iterdir():
        os.utime(path, (0, 0))
    monkeypatch.setattr(module, "CACHED_BYTES", len(files["svg"]) + 100)
    rendered(spec_with("newer"), ["svg"])
    (left,) = cache_folder().iterdir()
    assert b">newer<" in left.read_bytes()


def test_a_cache_that_cannot_be_written_to_costs_time_alone(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert rendered(spec_with("x"), ["svg"])["svg"].startswith(b"<svg")


def test_nothing_to_draw_is_said():
    for figure in ({"where": "seed > 9"}, {"when": "loss > 9"}, {"y": "sqrt(-loss)"}):
        with pytest.raises(NothingToDraw):
            chart(MADE, **{"kind": "trajectories", "y": "loss", **figure})
    with pytest.raises(UsageError, match="no measure of the runs is called component_"):
        chart(MADE, kind="trajectories", y="component_*")


def test_too_many_panels_are_refused():
    made = results([{"seed": s} for s in range(40)], falling)
    with pytest.raises(UsageError, match="has 40 panels, more than 36"):
        chart(made, kind="trajectories", y="loss", facet="seed")


LARGEST = sys.float_info.max
ENDS = (np.inf, np.nan, 1e200, -np.inf)
"""What a measure may be when a trial diverges: an accident of floating point."""


def ending(trial):
    """A measure that falls, or one that ends in whatever the trial diverged with."""
    return {"loss": [1.0, 0.5, trial["end"] if trial["outcome"] == "diverged" else 0.25]}


def diverging(counts, ends=ENDS):
    """Five seeds for each step size, of which so many diverged."""
    return results(
        [
            {
                "optimizer.lr": lr,
                "init.kind": "gaussian",
                "seed": s,
                "outcome": "diverged" if s < n else "converged",
                "end": ends[s % len(ends)],
            }
            for lr, n in counts.items()
            for s in range(5)
        ],
        ending,
    )


def crosses_of(spec):
    """The rows that are marked by a cross with a place in the legend, and where each layer has them."""
    layers = (layer for panel in panels(spec) for layer in panel.get("layer", []))
    marked = [layer for layer in layers if "size" in layer["encoding"] and layer["mark"]["color"] == "black"]
    return [(rows(layer, spec), {c: layer["encoding"][c] for c in ("x", "y")}) for layer in marked]


def test_points_of_diverged_trials_are_at_the_edge():
    made = diverging({0.1: 0, 1.0: 4})
    spec = chart(made, kind="points", x="optimizer.lr", y="loss", log=["x", "y"])
    assert [row["y"] for row in rows(spec, spec)] == [0.25] * 6
    ((found, places),) = crosses_of(spec)
    assert [(row["trial"], row["over"]) for row in found] == [(f"trial{n}", "diverged") for n in (5, 6, 7, 8)]
    assert places["y"] == {"value": 6}
    assert places["x"]["field"] == "x"
    ((_, places),) = crosses_of(chart(made, kind="points", x="loss", y="loss", reverse=["y"], width=300, height=200))
    assert places == {"x": {"value": 294}, "y": {"value": 194}}
    # What is no measure of theirs has its place.
    assert crosses_of(chart(made, kind="points", x="optimizer.lr", y="steps")) == []
    assert crosses_of(chart(made, kind="points", x="optimizer.lr", y="loss", where="outcome != 'diverged'")) == []


def test_medians_count_the_diverged():
    spec = chart(diverging({0.1: 0, 0.5: 1, 1.0: 4}), kind="medians", x="optimizer.lr", y="loss", bars="range")
    assert [(row["y"], row["trials"], row["infinite"]) for row in rows(spec, spec)] == [(0.25, 5, 0), (0.25, 5, 1), (None, 5, 4)]
    ((found, places),) = crosses_of(spec)
    assert [(row["x"], row["over"]) for row in found] == [(0.5, "some diverged"), (1.0, "half or more diverged")]
    assert places["y"] == {"value": 6}
    (open_bars,) = [layer for layer in spec["layer"] if layer["encoding"].get("y2") == {"value": 6}]
    assert [(row["x"], row["low"]) for row in rows(open_bars, spec)] == [(0.5, 0.25), (1.0, 0.25)]


def test_a_quartile_beside_what_is_infinite_is_a_number():
    spec = chart(diverging({0.1: 1}), kind="medians", x="optimizer.lr", y="loss")
    assert [(row["low"], row["y"], row["high"]) for row in rows(spec, spec)] == [(0.25, 0.25, 0.25)]


def test_cells_of_a_map_count_the_diverged():
    spec = chart(diverging({0.1: 0, 0.5: 1, 1.0: 5}), kind="heatmap", x="optimizer.lr", y="init.kind", color="loss")
    assert [(row["x"], row["value"], row["infinite"]) for row in rows(spec, spec)] == [("0.1", 0.25, 0), ("0.5", 0.25, 1)]
    ((found, _),) = crosses_of(spec)
    assert [(row["x"], row["over"]) for row in found] == [("0.5", "some diverged"), ("1", "half or more diverged")]


def test_a_trace_ends_in_a_cross_where_it_diverged():
    spec = chart(diverging({1.0: 4}), kind="trajectories", y="loss", color="seed", log="y")
    assert len(rows(spec, spec)) == 4 * 2 + 3
    ((found, places),) = crosses_of(spec)
    assert [(row["trial"], row["step"], row["over"]) for row in found] == [(f"trial{n}", 2, "diverged") for n in range(4)]
    assert places["y"] == {"value": 6}


def test_what_is_infinite_without_divergence_is_called_so():
    made = results([{"seed": s, "error": float(s)} for s in range(3)])
    ((found, _),) = crosses_of(chart(made, kind="points", x="seed", y="1 / error"))
    assert [row["over"] for row in found] == ["infinite"]


@pytest.mark.parametrize("kind", ["points", "medians", "heatmap", "trajectories"])
@pytest.mark.parametrize("counts", [{0.1: 0, 1.0: 4}, {0.1: 5, 1.0: 5}])
@pytest.mark.parametrize("log", [True, False])
def test_diverged_trials_are_drawn(kind, counts, log):
    """The largest number too, of which a logarithmic axis has no place to leave room above."""
    made = diverging(counts, ends=(LARGEST, np.inf, np.nan, -LARGEST))
    keys = {
        "points": {"x": "optimizer.lr", "y": "loss"},
        "medians": {"x": "optimizer.lr", "y": "loss"},
        "heatmap": {"x": "optimizer.lr", "y": "seed", "color": "loss"},
        "trajectories": {"x": "loss", "y": "loss", "color": "step"},
    }[kind]
    scales = (["color"] if kind == "heatmap" else ["y"]) if log else []
    figure = FIGURES[kind].model_validate({"kind": kind, **keys, "log": scales})
    assert rendered(spec_of(draw(figure, made)), ["svg"])["svg"].startswith(b"<svg")
    huge = results([{"seed": s, "error": value} for s, value in enumerate((1.0, LARGEST))])
    other = {"points": {"x": "seed", "y": "error"}, "medians": {"x": "seed", "y": "error"}}.get(kind)
    if other:
        figure = FIGURES[kind].model_validate({"kind": kind, **other, "log": ["y"]})
        assert rendered(spec_of(draw(figure, huge)), ["svg"])["svg"].startswith(b"<svg")


def test_numbers_for_which_there_is_no_prefix_are_short():
    made = results([{"seed": s, "error": value} for s, value in enumerate((1.0, 1e300))])
    drawn = rendered(
        spec_of(draw(FIGURES["points"].model_validate({"kind": "points", "x": "seed", "y": "error", "log": "y"}), made)), ["svg"]
    )
    assert b"000000" not in b"".join(re.findall(rb">([^<]+)</text>", drawn["svg"]))
