"""Thresholds: from where on enough trials succeed, as marks and as tables."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from orchestrator.analysis.figures import draw, tabulate
from orchestrator.errors import UsageError
from orchestrator.grid.figures import FIGURES
from tests.analysis.drawn import chart, layers_with, panels, rows
from tests.analysis.made import results

OBSERVED = (8, 16, 24, 32)
SUCCEEDING = {
    (2, 0.1): (0, 2, 9, 10),
    (2, 1.0): (0, 9, 8, 10),
    (3, 0.1): (9, 9, 10, 10),
    (3, 1.0): (0, 0, 10, 8),
}
"""How many of ten trials succeed with so many observations, by depth and scale."""


def trials_of(succeeding, observed, **keys):
    return [
        {"problem.observed": n, "seed": s, "error": 1e-3 if s < count else 0.5, **keys}
        for n, count in zip(observed, succeeding, strict=True)
        for s in range(10)
    ]


TRAINED = [
    trial
    for (depth, scale), counts in SUCCEEDING.items()
    for trial in trials_of(counts, OBSERVED, **{"factorization.kind": "deep_matrix", "factorization.depth": depth, "init.scale": scale})
]
LEAST = trials_of((0, 0, 9, 10), OBSERVED, **{"factorization.kind": "nuclear_norm"})
MADE = results(TRAINED + LEAST)
FIGURE = {
    "kind": "threshold",
    "x": "factorization.depth",
    "of": "problem.observed",
    "when": "rate(error < 1e-2) >= 0.9",
    "color": "init.scale",
}
FOUND = {(2, 0.1): (24, 16), (2, 1.0): (32, 24), (3, 0.1): (8, None), (3, 1.0): (None, 32)}
"""From where on, and where it fails last."""


def tables(made, **figure):
    return {form: content.decode() for form, content in tabulate(FIGURES["threshold"].model_validate({**FIGURE, **figure}), made).items()}


def test_from_where_on_a_condition_holds_at_all_larger_values():
    spec = chart(MADE, **FIGURE)
    found = {(row["x"], float(row["color"])): (row["y"], row["fails_at"]) for row in rows(spec, spec)}
    assert found == FOUND
    # Worked out beside it, with pandas alone.
    frame = pd.DataFrame(TRAINED)
    rates = (frame["error"] < 1e-2).groupby([frame["factorization.depth"], frame["init.scale"], frame["problem.observed"]]).mean().unstack()
    lasting = rates.ge(0.9).iloc[:, ::-1].cumprod(axis=1).iloc[:, ::-1].astype(bool)
    assert {key: (row.idxmax() if row.any() else None) for key, row in lasting.iterrows()} == {key: y for key, (y, _) in FOUND.items()}


def test_groups_that_never_or_always_succeed_are_marked():
    spec = chart(MADE, **FIGURE)
    marked = [(layer, rows(layer, spec)) for layer in spec["layer"] if "shape" in layer["encoding"]]
    places = {row["over"]: (row["x"], row["color"], layer["encoding"]["y"]) for layer, found in marked for row in found}
    assert places.keys() == {"not even at the largest tried", "at all that were tried"}
    assert places["not even at the largest tried"] == (3, "1", {"value": 6})
    x, color, y = places["at all that were tried"]
    assert (x, color, y["field"]) == (3, "0.1", "y")
    scale = marked[0][0]["encoding"]["shape"]["scale"]
    assert dict(zip(scale["domain"], scale["range"], strict=True)) == {
        "not even at the largest tried": "triangle-up",
        "at all that were tried": "triangle-down",
    }


def test_the_axis_says_what_is_found_unless_told():
    assert chart(MADE, **FIGURE)["layer"][0]["encoding"]["y"]["title"] == ["smallest problem.observed from which on", FIGURE["when"]]
    labelled = {**FIGURE, "labels": {"y": "entries needed"}}
    assert not list(FIGURES["threshold"].model_validate(labelled).own_conflicts())
    assert chart(MADE, **labelled)["layer"][0]["encoding"]["y"]["title"] == "entries needed"


def test_a_baseline_without_the_axis_is_a_line():
    spec = chart(MADE, **FIGURE)
    (beside,) = layers_with(spec, spec, strokeDash="line")
    assert [(row["line"], row["y"]) for row in beside] == [("nuclear_norm", 24)]


def test_a_facet_has_a_panel_each():
    spec = chart(MADE, **{**FIGURE, "x": "init.scale", "color": None, "facet": "factorization.depth"})
    assert [[row["y"] for row in rows(panel, spec)] for panel in panels(spec)] == [[24, 32], [8, None]]
    assert [layers_with(panel, spec, strokeDash="line")[0][0]["y"] for panel in panels(spec)] == [24, 24]


@pytest.mark.parametrize(
    ("when", "found"),
    [
        ("median(error) < 1e-2", 24),
        ("mean(error) < 0.05 and rate(error < 1) == 1", 32),
        ("rate(error < 1e-2) > 0.1", 16),
        ("median(error) < 0", None),
    ],
)
def test_a_condition_may_be_on_any_number_of_the_trials(when, found):
    spec = chart(MADE, **{**FIGURE, "when": when, "where": "factorization.depth == 2 and init.scale == 0.1"})
    assert [row["y"] for row in rows(spec, spec)] == [found]


def test_a_diverged_trial_does_not_succeed_and_a_value_with_no_trial_left_holds_nothing():
    outcomes = ["converged"] * 8 + ["diverged", "failed"]
    trials = [
        {"init.scale": 1.0, "problem.observed": 8, "seed": s, "outcome": o, "error": 1e-3 if s < 8 else np.nan}
        for s, o in enumerate(outcomes)
    ]
    figure = {**FIGURE, "x": "init.scale", "color": None}
    strict, lenient = figure, {**figure, "when": "rate(error < 1e-2) > 0.88"}
    assert levels_of(results(trials), strict) == [(None, 8)], "8 of 9 are too few"
    assert levels_of(results(trials), lenient) == [(8, None)]
    failed = [{**trial, "problem.observed": 16, "outcome": "failed", "error": np.nan} for trial in trials]
    assert levels_of(results(trials + failed), lenient) == [(None, 16)]


def levels_of(made, figure):
    spec = chart(made, **figure)
    return [(row["y"], row["fails_at"]) for row in rows(spec, spec)]


def test_the_numbers_are_beside_the_figure():
    frame = pd.read_csv(io.StringIO(tables(MADE)["csv"]))
    own = frame[frame["baseline"].isna()]
    found = {(row["factorization.depth"], row["init.scale"]): (row["threshold"], row["fails_at"]) for _, row in own.iterrows()}
    assert {key: tuple(None if np.isnan(value) else value for value in values) for key, values in found.items()} == FOUND
    assert set(own["trials"]) == {40}
    assert (set(own["smallest"]), set(own["largest"])) == ({8}, {32})
    (least,) = frame[frame["baseline"] == "nuclear_norm"].to_dict("records")
    assert (least["threshold"], least["fails_at"], np.isnan(least["factorization.depth"])) == (24, 16, True)
    assert "baseline" not in tables(MADE, where="factorization.kind == 'deep_matrix'")["csv"]


def test_a_table_for_latex_has_a_line_for_each_x_and_a_column_for_each_colour():
    text = tables(MADE)["tex"]
    assert text.startswith(
        "% the smallest problem.observed from which on rate(error < 1e-2) >= 0.9: \\usepackage{booktabs}\n\\begin{tabular}{lrrr}\n"
    )
    assert [line for line in text.splitlines() if "&" in line] == [
        r"factorization.depth & init.scale 0.1 & init.scale 1 & nuclear\_norm \\",
        r"2 & $24$ & $32$ & $24$ \\",
        r"3 & $\leq 8$ & $> 32$ & $24$ \\",
    ]
    assert [rule for rule in ("\\toprule", "\\midrule", "\\bottomrule") if rule in text] == ["\\toprule", "\\midrule", "\\bottomrule"]


def test_columns_are_in_order_also_where_the_first_line_lacks_one():
    text = tables(results([trial for trial in TRAINED if trial["factorization.depth"] == 3 or trial["init.scale"] > 0.5]))["tex"]
    assert [line for line in text.splitlines() if "&" in line] == [
        r"factorization.depth & init.scale 0.1 & init.scale 1 \\",
        r"2 & -- & $32$ \\",
        r"3 & $\leq 8$ & $> 32$ \\",
    ]


def test_a_table_for_latex_with_facets_has_them_on_the_left():
    text = tables(
        MADE,
        x="init.scale",
        color={"50% & more": "seed >= 5", "less": "seed < 5"},
        facet="factorization.depth",
        when="rate(error < 1) == 1",
    )["tex"]
    lines = [line for line in text.splitlines() if "&" in line]
    assert lines[0] == r"factorization.depth & init.scale & 50\% \& more & less & nuclear\_norm, 50\% \& more & nuclear\_norm, less \\"
    assert [line.split(" & ")[:2] for line in lines[1:]] == [["2", "0.1"], ["2", "1"], ["3", "0.1"], ["3", "1"]]


def test_signs_are_escaped_as_in_tables_of_trials():
    text = tables(MADE, color={"a|b < 5 ± 1": "seed >= 0"})["tex"]
    assert r"& a\textbar{}b \textless{} 5 $\pm$ 1 &" in text


def test_what_is_text_has_no_smallest_value():
    with pytest.raises(UsageError, match=r"^factorization.kind is text, such as deep_matrix, where numbers are needed$"):
        tables(MADE, of="factorization.kind", x="init.scale")


def test_only_the_formats_that_are_asked_for_are_made():
    figure = FIGURES["threshold"].model_validate(FIGURE)
    assert tabulate(figure, MADE, ["csv", "png"]).keys() == {"csv"}
    assert tabulate(FIGURES["points"].model_validate({"kind": "points", "x": "seed", "y": "error"}), MADE) == {}
    assert draw(figure, MADE) is not None
