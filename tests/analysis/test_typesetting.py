"""Tables for people: plain text, Markdown and LaTeX."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from orchestrator.analysis.tables import Column, Table, grouped, listing
from orchestrator.analysis.typesetting import latex, latex_cell, markdown, notes_of, plain_cell, rows_of
from tests.analysis.made import results


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (1.2e-3, r"$1.2 \times 10^{-3}$"),
        (1e-3, "$10^{-3}$"),
        (-1e-5, "$-10^{-5}$"),
        (0.01234, "$0.0123$"),
        (0.0, "$0$"),
        (3, "$3$"),
        (5_000_000, r"$5 \times 10^{6}$"),
        (1346.4, "$1346$"),
        (9.999e-4, "$10^{-3}$"),
        (math.inf, r"$\infty$"),
        (math.nan, "--"),
        (None, "--"),
        (True, "True"),
        (r"50% of a_b & {c}~^\<d>", r"50\% of a\_b \& \{c\}\textasciitilde{}\textasciicircum{}\textbackslash{}\textless{}d\textgreater{}"),
    ],
)
def test_values_in_latex(value, written):
    assert latex_cell(value) == written


@pytest.mark.parametrize(
    ("value", "digits", "written"), [(1424.2, 3, "1424"), (12345678.0, 3, "1.23e+07"), (0.5, 3, "0.5"), (math.nan, 3, ""), (9.96298e-9, 6, "9.96298e-09")]
)  # fmt: skip
def test_values_in_plain_text(value, digits, written):
    assert plain_cell(value, digits) == written


def spread(**columns):
    """A table of one column that has a spread."""
    return Table(pd.DataFrame(columns), (Column("x_1", tuple(columns)),))


@pytest.mark.parametrize(
    ("columns", "cell", "text"),
    [
        ({"x_mean": [1.2e-4], "x_std": [3e-5]}, r"$(1.20 \pm 0.30) \times 10^{-4}$", "0.00012 ± 3e-05"),
        ({"x_mean": [0.5], "x_std": [0.25]}, r"$0.5 \pm 0.25$", "0.5 ± 0.25"),
        ({"x_mean": [0.5], "x_std": [math.nan]}, "$0.5$", "0.5"),
        ({"x_mean": [math.inf], "x_std": [math.nan]}, r"$\infty$", "inf"),
        ({"x_median": [0.5], "x_q25": [1e-3], "x_q75": [math.inf]}, r"$0.5\ [10^{-3},\ \infty]$", "0.5 [0.001, inf]"),
        ({"x_median": [0.5], "x_q25": [0.5], "x_q75": [0.5]}, "$0.5$", "0.5"),
    ],
)
def test_a_value_and_its_spread_are_one_cell(columns, cell, text):
    table = spread(**columns)
    assert rows_of(table, table.columns, 3) == [[text]]
    assert f"x\\_1 \\\\\n\\midrule\n{cell} \\\\\n\\bottomrule" in latex(table)


TRIALS = [
    {"problem.kind": "matrix_completion", "factorization.depth": depth, "init.scale": 1e-3, "seed": seed, "error": depth * 1e-3 + seed}
    for depth in (2, 3)
    for seed in (0, 1)
]


def test_what_is_the_same_in_all_rows_is_said_below():
    table = listing(results(TRIALS))
    columns, _ = table.split()
    assert [column.name for column in columns] == ["trial_id", "factorization.depth", "seed", "error"]
    (note,) = notes_of(table)
    assert note.startswith("same for all: outcome converged, steps 10, seconds 1.0, problem.kind matrix_completion")
    # What was asked for by name is shown all the same.
    asked = listing(results(TRIALS), columns=["init.scale", "error"])
    assert [column.name for column in asked.split()[0]] == ["init.scale", "error"]
    # Of one row nothing is left out.
    assert not listing(results(TRIALS[:1])).split()[1]


def test_latex_is_a_float_with_a_caption_and_rules():
    table = grouped(results(TRIALS), ["factorization.depth"], columns=["error"], statistic="mean±std")
    assert (
        latex(table)
        == r"""% \usepackage{booktabs}
\begin{table}
\centering
\caption{Means $\pm$ standard deviations over trials. Same for all: trials $2$, diverged $0$, failed $0$.}
\begin{tabular}{rr}
\toprule
factorization.depth & error \\
\midrule
$2$ & $0.502 \pm 0.707$ \\
$3$ & $0.503 \pm 0.707$ \\
\bottomrule
\end{tabular}
\end{table}
"""
    )


def test_markdown_is_a_table_whose_text_is_text():
    table = grouped(results(TRIALS), ["factorization.depth", "init.scale"], columns=["rate(error < 1)"])
    assert (
        markdown(table)
        == r"""| factorization.depth | init.scale | rate(error \< 1) |
| ---: | ---: | ---: |
| 2 | 0.001 | 0.5 |
| 3 | 0.001 | 0.5 |

Same for all: trials 2, diverged 0, failed 0.
"""
    )
