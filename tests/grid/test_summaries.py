"""Rates and other numbers of groups of trials: what they are about, where they may stand, and what is said where they may not."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.errors import GridError
from orchestrator.grid import parse_grid
from orchestrator.grid.summaries import Criterion, rate_in, summaries_of
from tests.grid.test_errors import GOOD
from workloads.expressions import ExpressionError


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("rate(error < 1e-2)", "error < 1e-2"),
        (" rate ( (error < 1) and abs(det) > 2 ) ", "(error < 1) and abs(det) > 2"),
        ("rate(factorization.kind == 'a)(' and error < 1)", "factorization.kind == 'a)(' and error < 1"),
        ("rate(error < 1) > rate(det > 0)", None),
        ("1 - rate(error < 1)", None),
        ("init.rate", None),
        ("error", None),
        ("rate(error < 1", None),
    ],
)
def test_a_rate_stands_alone(text, condition):
    assert rate_in(text) == condition


def test_what_is_within_a_summary_belongs_to_it():
    found = summaries_of("rate(error < 1) >= 0.9 and median(max(loss, det)) < 1 or mean( steps )>3")
    assert [(summary.function, summary.of) for summary in found] == [("rate", "error < 1"), ("median", "max(loss, det)"), ("mean", "steps")]


def test_a_criterion_holds_by_the_values_of_its_summaries():
    criterion = Criterion("rate(error < 1e-2) >= 0.9 and not median(loss) > 1")
    assert criterion.holds([0.9, 1.0])
    assert not criterion.holds([0.89, 1.0])
    assert not criterion.holds([0.9, 2.0])
    assert not Criterion("median(loss) < 1").holds([np.nan])
    assert not Criterion("median(loss) < 1").holds([np.inf])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("error < 1", r"has error of a single trial, where a group is asked for: write rate\(error < 1e-2\) >= 0.9"),
        ("rate(error < 1)", "is a number, not a condition: compare it"),
        ("1 < 2", "says nothing of trials"),
        ("rate(error < 1) >=", "is not an expression"),
    ],
)
def test_what_is_no_criterion(text, reason):
    with pytest.raises(ExpressionError, match=reason):
        Criterion(text)


def mistakes(figure):
    with pytest.raises(GridError) as caught:
        parse_grid(f"{GOOD}record: {{measures: [error]}}\nfigures:\n  f: {figure}\n", "g.yaml")
    (mistake,) = caught.value.mistakes
    return mistake


MEDIANS = "kind: medians, x: problem.observed"


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (f"{{{MEDIANS}, y: rate(error)}}", "g.yaml:10:43: figures.f.y: 'error' is a number, not a condition: compare it with something"),
        (
            f"{{{MEDIANS}, y: [error, 1 - rate(error < 1)]}}",
            "has rate(...), which stands alone, in y of medians or color of heatmap, or in when",
        ),
        (f"{{{MEDIANS}, y: rate(eror < 1)}}", "figures.f.y: there is no eror in the runs; did you mean error?"),
        (
            f"{{{MEDIANS}, y: error, where: rate(error < 1) > 0.5}}",
            "figures.f.where: 'rate(error < 1) > 0.5' has rate(...), which stands alone",
        ),
        (
            f"{{{MEDIANS}, y: median(error)}}",
            "has median(...), which stands in when of threshold; medians and heatmap have statistic: for it",
        ),
        (f"{{{MEDIANS}, y: rate(error < 1), log: y}}", "figures.f.log: is not for rate(error < 1): a share may be zero"),
        (f"{{{MEDIANS}, y: rate(error < 1), statistic: mean}}", "figures.f.statistic: has no effect on rates"),
        (f"{{{MEDIANS}, y: rate(error < 1), bars: iqr}}", "figures.f.bars: of rates are wilson, bootstrap, none, not iqr"),
        (f"{{{MEDIANS}, y: error, bars: sem}}", "figures.f.bars: sem goes with statistic: mean"),
        (f"{{{MEDIANS}, y: error, bars: wilson}}", "figures.f.bars: wilson is an interval of rates: y has none"),
        (
            "{kind: heatmap, x: init.scale, y: seed, color: rate(error < 1), statistic: mean}",
            "figures.f.statistic: has no effect on a rate",
        ),
        ("{kind: heatmap, x: init.scale, y: seed, color: rate(error < 1), log: color}", "figures.f.log: is not for rate(error < 1)"),
        ("{kind: trajectories, y: rate(error < 1)}", "has rate(...), which stands alone"),
    ],
)
def test_message(figure, message):
    assert message in mistakes(figure)


def test_a_rate_is_of_what_the_trials_have():
    grid = parse_grid(f"{GOOD}figures:\n  f: {{{MEDIANS}, y: rate(error < 1e-2 and outcome == 'converged')}}\n")
    assert not grid.figures["f"].needs_traces
    assert parse_grid(f"{GOOD}figures:\n  f: {{{MEDIANS}, y: rate(lowest(error) < 1e-2)}}\n").figures["f"].needs_traces
