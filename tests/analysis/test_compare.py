"""Two sweeps compared: trials are matched by their specs, seeds are paired."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from orchestrator.analysis.compare import compare, draw_comparison
from orchestrator.analysis.figures import spec_of
from orchestrator.analysis.rendering import rendered
from orchestrator.analysis.statistics import attainable
from orchestrator.cli.commands.compare import PAIRS, TRIALS, _notes, _print
from orchestrator.errors import UsageError
from tests.analysis.made import results

RUNS = itertools.count()


def trials(lr, error, depths=(2, 3), seeds=8, **more):
    return [
        {"run_id": next(RUNS), "optimizer.lr": lr, "factorization.depth": d, "seed": s, "dtype": "float64", "error": error(d, s), **more}
        for d in depths
        for s in (range(seeds) if isinstance(seeds, int) else seeds)
    ]


def sweep(*arguments, **more):
    return results(trials(*arguments, **more))


def noise(d, s):
    return float(np.random.default_rng(10 * d + s).normal(d, 1.0))


def test_pairs_of_a_seed_show_a_shift_that_is_smaller_than_the_spread():
    found = compare(sweep(0.1, noise), sweep(0.2, lambda d, s: noise(d, s) + (0.01 if d == 2 else 0)))
    assert found.differs == {"optimizer.lr": (0.1, 0.2)}
    assert found.keys == ["factorization.depth"]
    two, three = found.table[found.table.measure == "error"].to_dict("records")
    assert (two["trials"], two["paired"], two["moved"]) == (8, True, True)
    assert two["median"] == pytest.approx(0.01)
    assert two["mean"] == pytest.approx(0.01)
    assert (three["median"], three["moved"]) == (0.0, False)
    assert two["a"] == pytest.approx(np.median([noise(2, s) for s in range(8)]))


def test_without_pairs_groups_are_compared():
    found = compare(sweep(0.1, noise, seeds=8), sweep(0.1, lambda d, s: noise(d, s) + 5, seeds=range(4, 10)))
    assert (found.differs, found.matched, found.unmatched) == ({}, (16, 12), (0, 0))
    rows = found.table.to_dict("records")
    assert all(not row["paired"] and row["trials"] == 6 and row["moved"] for row in rows)
    a, b = ([noise(2, s) + shift for s in seeds] for seeds, shift in ((range(8), 0), (range(4, 10), 5)))
    assert rows[0]["median"] == pytest.approx(np.median(b) - np.median(a))


@pytest.mark.parametrize(("seeds", "few"), [((5, 5), 2), ((6, 6), 0), ((range(3), range(3, 6)), 2), ((range(4), range(4, 8)), 0)])
def test_intervals_of_too_few_trials_are_told_of(seeds, few):
    found = compare(sweep(0.1, noise, seeds=seeds[0]), sweep(0.1, lambda d, s: noise(d, s) + 9, seeds=seeds[1]))
    said = [text for text in _notes(found, ("A", "B")) if text.startswith("too few")]
    assert said == ([f"too few trials: {few} of 2 intervals carry less than 95 %: of fewer than 6 pairs, or 4 a side"] if few else [])
    assert attainable(PAIRS) > 0.95 > attainable(PAIRS - 1)
    assert attainable(TRIALS, TRIALS) > 0.95 > attainable(TRIALS - 1, TRIALS - 1)


def test_trials_that_are_no_runs_are_compared_as_others_are():
    def of(run_ids):
        rows = [trials(0.1, noise), trials(0.2, lambda d, s: noise(d, s) + 1)]
        named = [[row | {"trial_id": f"t{row['run_id']}"} for row in side] for side in rows]
        return compare(*(results(side if run_ids else [row | {"run_id": None} for row in side]) for side in named))

    some, none = of(run_ids=True), of(run_ids=False)
    assert none.table.equals(some.table)
    assert (none.differs, none.matched, none.unmatched) == (some.differs, some.matched, some.unmatched)
    assert none.table["paired"].all()


BASELINE = {"lr": None, "error": lambda *_: 1.0, "depths": (None,), "seeds": 1}
"""A trial that both sweeps have."""


@pytest.mark.parametrize("baseline", [BASELINE, {**BASELINE, "lr": 0.05, "depths": (9,)}])
def test_a_baseline_that_both_have_does_not_hide_what_was_changed(baseline):
    shifted = lambda d, s: noise(d, s) + 1  # noqa: E731
    one, other = trials(0.1, noise), trials(0.2, shifted)
    found = compare(*(results([*some, *trials(**baseline)]) for some in (one, other)))
    assert found.differs == {"optimizer.lr": (0.1, 0.2)}
    assert (found.matched, found.unmatched, found.same) == ((17, 17), (0, 0), 0)
    rows = [(row["moved"], row["paired"], row["trials"]) for row in found.table.to_dict("records")]
    assert sorted(rows) == [(False, True, 1), (True, True, 8), (True, True, 8)]
    # The same run in both says nothing.
    shared = trials(**baseline)
    found = compare(*(results([*some, *shared]) for some in (one, other)))
    assert (found.same, found.set_aside, found.matched) == (1, True, (16, 16))
    assert found.table["factorization.depth"].tolist() == [2, 3]


def test_what_was_changed_stays_apart_from_what_was_not():
    """Of step sizes 0.1 and 0.2 in A, and 0.2 and 0.4 in B, those that agree are not mixed with those that do not."""
    one = results([*trials(0.1, noise, depths=(2,)), *trials(0.2, noise, depths=(2,))])
    other = results([*trials(0.2, noise, depths=(2,)), *trials(0.4, lambda d, s: noise(d, s) + 1, depths=(2,))])
    found = compare(one, other)
    assert found.differs == {"optimizer.lr": (0.1, 0.4)}
    assert {row["optimizer.lr"]: row["moved"] for row in found.table.to_dict("records")} == {"0.2": False, "0.1 -> 0.4": True}


def test_a_sweep_and_its_extension_by_seeds_are_the_same_runs():
    first = trials(0.1, noise, depths=(2,), seeds=5)
    found = compare(results(first), results([*first, *trials(0.1, noise, depths=(2,), seeds=range(5, 9))]))
    (row,) = found.table.to_dict("records")
    assert (row["paired"], row["trials"], row["same"], row["moved"], row["median"]) == (True, 5, True, False, 0.0)
    assert (found.matched, found.unmatched, found.same, found.set_aside) == ((5, 5), (0, 4), 5, False)


def test_pairs_are_made_of_the_seeds_that_both_have():
    found = compare(sweep(0.1, noise, seeds=5), sweep(0.2, lambda d, s: noise(d, s) + 0.01, seeds=9))
    assert [(row["paired"], row["trials"], row["moved"]) for row in found.table.to_dict("records")] == [(True, 5, True)] * 2
    assert found.unmatched == (0, 8)


def test_trials_are_picked_by_a_condition():
    found = compare(sweep(0.1, noise), sweep(0.2, noise), where="factorization.depth == 3 and seed < 4")
    assert (found.matched, found.unmatched) == ((4, 4), (0, 0))
    with pytest.raises(UsageError, match="no trial that has ended and meets the condition"):
        compare(sweep(0.1, noise), sweep(0.2, noise), where="seed > 99")


def test_the_diverged_count():
    after = trials(0.2, noise, depths=(2,))
    for trial, value in zip(after[:6], itertools.cycle((np.inf, np.nan, 1e200))):
        trial |= {"outcome": "diverged", "error": value}
    found = compare(sweep(0.1, noise, depths=(2,)), results(after))
    (row,) = found.table.to_dict("records")
    assert (row["trials"], row["diverged_a"], row["diverged_b"]) == (8, 0, 6)
    assert (row["b"], row["median"], row["moved"]) == (np.inf, np.inf, True)
    assert rendered(spec_of(draw_comparison(found)), ["svg"])["svg"].startswith(b"<svg")
    (row,) = compare(results(after), results(trials(0.3, noise, depths=(2,), outcome="diverged"))).table.to_dict("records")
    assert (row["median"], row["diverged_a"], row["diverged_b"]) == (0.0, 6, 8)


def test_what_has_no_counterpart_is_counted():
    found = compare(sweep(0.1, noise, depths=(2, 3)), sweep(0.2, noise, depths=(3, 4, 5)))
    assert found.unmatched == (8, 16)
    assert len(found.table) == 1


def test_groups_can_be_made_by_fewer_keys():
    found = compare(sweep(0.1, noise), sweep(0.2, noise), by=[])
    assert found.table.trials.tolist() == [16]


def test_measures_and_keys_that_are_not_there():
    a = sweep(0.1, noise)
    with pytest.raises(UsageError, match="nuclear is not in both sweeps; in both are error"):
        compare(a, a, ["nuclear"])
    with pytest.raises(UsageError, match="no trial of one sweep has the same spec"):
        compare(sweep(0.1, noise, depths=(2, 3)), sweep(0.1, noise, depths=(4, 5)))


def test_it_is_drawn():
    found = compare(sweep(0.1, noise), sweep(0.2, lambda d, s: noise(d, s) + 1))
    assert rendered(spec_of(draw_comparison(found)), ["svg"])["svg"].startswith(b"<svg")


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_key_without_a_value_is_as_one_that_is_not_there(seeds):
    absent, empty = (sweep(0.1, noise, depths=(2,), seeds=seeds, **more) for more in ({}, {"init.rank": None}))
    found = compare(absent, empty)
    (row,) = found.table.to_dict("records")
    assert (found.keys, row["trials"], row["median"]) == ([], seeds, 0.0)


@pytest.mark.parametrize("failed", [(True, True), (True, False)])
def test_trials_that_have_all_failed_leave_nothing_to_compare(failed, capsys):
    lost = results(trials(0.1, lambda *_: np.nan, outcome="failed"))
    found = compare(*(lost if none else sweep(0.1, noise) for none in failed))
    _print(found)
    assert "no measure has a value in both sweeps" in capsys.readouterr().err
    assert found.table.empty
