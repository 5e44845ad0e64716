"""Tables of trials and of groups of them: which rows, in which order, with which numbers."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from orchestrator.analysis.charts.groups import quantity, summarized
from orchestrator.analysis.statistics import quantiles
from orchestrator.analysis.tables import grouped, listing, rate_of, read_statistic, split_list
from orchestrator.errors import UsageError
from tests.analysis.made import results


def made(*trials):
    """Trials of depth, seed, error, and, if it did not converge, the outcome."""
    rows = []
    for depth, seed, error, *outcome in trials:
        rows.append({"factorization.depth": depth, "seed": seed, "error": error, "loss": error / 2, "sv_0": 1.0, "sv_1": 0.5})
        if outcome:
            rows[-1]["outcome"] = outcome[0]
    return results(rows)


SIX = made((2, 0, 0.3), (2, 1, 0.1), (2, 2, 0.2), (3, 0, 0.04), (3, 1, 0.02), (3, 2, math.nan, "diverged"))


def test_a_listing_has_the_trials_that_meet_a_condition_in_the_order_asked_for():
    frame = listing(SIX, where="factorization.depth == 2", sort=["error"]).frame
    assert list(frame["error"]) == [0.1, 0.2, 0.3]
    assert "sweep" not in frame
    frame = listing(SIX, sort=["-factorization.depth", "error"]).frame
    # What diverged is infinite, whatever it measured.
    assert list(frame["trial_id"]) == ["trial4", "trial3", "trial5", "trial1", "trial2", "trial0"]
    assert list(listing(SIX, sort=["-error"]).frame["trial_id"][:2]) == ["trial5", "trial0"]
    assert list(listing(SIX, sort=["-trial_id"]).frame["trial_id"][:2]) == ["trial5", "trial4"]


def test_columns_are_names_patterns_and_expressions():
    frame = listing(SIX, columns=["seed", "sv_*", "max(error, loss) * 10"]).frame
    assert list(frame.columns) == ["seed", "sv_0", "sv_1", "max(error, loss) * 10"]
    assert list(frame["max(error, loss) * 10"])[:2] == [3.0, 1.0]
    assert math.isinf(frame["max(error, loss) * 10"].iloc[5])
    assert frame["seed"].dtype == np.int64


def test_groups_are_taken_together_over_seeds():
    frame = grouped(SIX, ["factorization.depth"], columns=["error", "rate(error < 0.15)"]).frame
    assert list(frame.columns) == [
        *("factorization.depth", "trials", "diverged", "failed", "error_median", "error_q25", "error_q75", "rate(error < 0.15)")
    ]
    assert frame.iloc[0].tolist() == pytest.approx([2, 3, 0, 0, 0.2, 0.15, 0.25, 1 / 3])
    assert frame.iloc[1].tolist() == pytest.approx([3, 3, 1, 0, 0.04, 0.03, math.inf, 2 / 3])


def test_a_mean_with_a_diverged_trial_is_infinite_and_failed_ones_have_no_measures():
    trials = made((2, 0, 1.0), (2, 1, 3.0), (2, 2, math.nan, "failed"), (3, 0, 1.0), (3, 1, 1.0, "diverged"), (4, 0, 5.0))
    frame = grouped(trials, ["factorization.depth"], columns=["error"], statistic="mean±std").frame
    assert frame[["trials", "diverged", "failed"]].to_numpy().tolist() == [[3, 0, 1], [2, 1, 0], [1, 0, 0]]
    assert list(frame["error_mean"]) == [2.0, math.inf, 5.0]
    assert frame["error_std"].tolist() == pytest.approx([math.sqrt(2), math.nan, math.nan], nan_ok=True)


def test_rates_are_those_of_the_figures():
    trials = made((2, 0, 0.5), (2, 1, 2.0), (2, 2, 0.0, "diverged"), (2, 3, math.nan, "failed"))
    frame = grouped(trials, ["factorization.depth"], columns=["rate(error < 1)", "rate(error > 1)", "rate(outcome == 'diverged')"]).frame
    for formula in frame.columns[4:]:
        assert frame[formula].item() == pytest.approx(np.nanmean(quantity(formula, trials))), formula
    # What diverged meets no condition on measures; what has none is in no rate of them.
    assert frame.iloc[0, 4:].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 4])


def test_only_what_has_ended_is_in_a_group():
    trials = made((2, 0, 1.0), (2, 1, math.nan, None), (2, 2, math.nan, "deleted"))
    frame = grouped(trials, ["factorization.depth"], columns=["error", "rate(error < 2)"]).frame
    assert (frame["trials"].item(), frame["error_median"].item(), frame["rate(error < 2)"].item()) == (1, 1.0, 1.0)


def test_groups_by_all_keys_that_vary_by_expressions_and_where_a_key_is_missing():
    assert list(grouped(SIX, ["auto"]).frame["factorization.depth"]) == [2, 3]
    frame = grouped(SIX, ["factorization.depth > 2"], columns=["error"]).frame
    assert list(frame["factorization.depth > 2"]) == [False, True]
    trials = results([{"factorization.depth": depth, "error": 1.0} for depth in (2.0, math.nan, math.nan)])
    assert list(grouped(trials, ["factorization.depth"], columns=["error"]).frame["trials"]) == [1, 2]


def test_the_default_columns_of_groups_are_the_steps_and_all_measures():
    assert [column.name for column in grouped(SIX, ["seed"]).columns][-5:] == ["steps", "error", "loss", "sv_0", "sv_1"]


def test_groups_are_sorted_by_what_they_have():
    for sort, first in ((["-factorization.depth"], 3), (["error"], 3), (["-error"], 2), (["error_q75"], 2), (["rate(error < 1)"], 3)):
        frame = grouped(SIX, ["factorization.depth"], columns=["error", "rate(error < 1)"], sort=sort).frame
        assert frame["factorization.depth"].iloc[0] == first, sort


def test_nothing_meets_a_condition():
    assert len(listing(SIX, where="error < 0").frame) == 0
    assert len(grouped(SIX, ["seed"], where="error < 0").frame) == 0


def test_quantiles_are_those_of_the_figures():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 30, 200)
    # Of one sign in a group: what lies between two infinities is undefined.
    values = np.where(rng.random(200) < 0.2, np.where(groups % 2, np.inf, -np.inf), rng.standard_normal(200))
    table = summarized(pd.DataFrame({"x": groups, "value": values}), ["x"], "median", "iqr")
    for name, share in (("value", 0.5), ("low", 0.25), ("high", 0.75)):
        found = quantiles(values, groups, 31, share)
        np.testing.assert_allclose(found[table["x"]], table[name].astype(float), rtol=1e-12)
        assert np.isnan(found[30])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: listing(SIX, where="eror < 1"), "the runs have no eror; did you mean error?"),
        (lambda: listing(SIX, where="loss == 'huber'"), "where: loss is a number, and 'huber' text: the kind of the loss is spec.loss"),
        (lambda: listing(SIX, where="outcome > 2"), "where: outcome is text, and 2 a number"),
        (lambda: grouped(SIX, ["seed"], columns=["rate(error in ['small'])"]), "rate: error is a number, and 'small' text"),
        (lambda: listing(SIX, where="error"), "where: 'error' is a number, not a condition"),
        (lambda: listing(SIX, columns=["eror"]), "the runs have no eror; did you mean error?"),
        (lambda: listing(SIX, columns=["tv_*"]), r"the runs have no tv_\*"),
        (lambda: listing(SIX, columns=["error +"]), "columns: 'error \\+' is not an expression"),
        (lambda: listing(SIX, columns=["rate(error < 1)"]), "group them"),
        (lambda: listing(SIX, sort=["depht"]), "the runs have no depht; did you mean factorization.depth?"),
        (lambda: grouped(results([{"spec.loss": "huber", "error": 0.1}]), ["loss.kind"]), "no loss.kind; did you mean spec.loss?"),
        (lambda: grouped(SIX, ["depth"]), "the runs have no depth; did you mean factorization.depth?"),
        (lambda: grouped(SIX, ["seed"], sort=["eror"]), "sort: the table has no eror; did you mean error"),
        (lambda: grouped(SIX, ["seed"], columns=["outcome"]), "outcome is text"),
        (lambda: grouped(SIX, ["seed"], columns=["error < 1"]), r"rate\(error < 1\) is the share"),
        (lambda: grouped(SIX, ["seed"], columns=["rate(error)"]), "rate: 'error' is a number, not a condition"),
        (lambda: read_statistic("meen"), "there is no statistic 'meen'; did you mean mean?"),
    ],
)
def test_mistakes_are_one_line(ask, message):
    with pytest.raises(UsageError, match=message):
        ask()


def test_small_languages():
    assert split_list("a, max(b, c),d in [1, 2],rate(outcome == 'x,y'),") == ["a", "max(b, c)", "d in [1, 2]", "rate(outcome == 'x,y')"]
    assert rate_of(" rate( abs(error) < 1 )") == "abs(error) < 1"
    assert rate_of("abs(error)") is None
    assert [read_statistic(text) for text in ("mean+-std", "mean±std", "median-iqr", "median[iqr]")] == ["mean±std"] * 2 + [
        "median[iqr]"
    ] * 2
