"""Two sweeps compared: trials are matched by their specs, seeds are paired."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.analysis.compare import compare, draw_comparison
from orchestrator.analysis.figures import rendered
from orchestrator.errors import UsageError
from tests.analysis.made import results


def sweep(lr, error, depths=(2, 3), seeds=8, **more):
    return results(
        [
            {"optimizer.lr": lr, "factorization.depth": d, "seed": s, "dtype": "float64", "error": error(d, s), **more}
            for d in depths
            for s in range(seeds)
        ]
    )


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
    found = compare(sweep(0.1, noise, seeds=8), sweep(0.1, lambda d, s: noise(d, s) + 5, seeds=6))
    assert found.differs == {}
    rows = found.table.to_dict("records")
    assert all(not row["paired"] and row["trials"] == 6 and row["moved"] for row in rows)
    a, b = ([noise(2, s) + shift for s in range(n)] for n, shift in ((8, 0), (6, 5)))
    assert rows[0]["median"] == pytest.approx(np.median(b) - np.median(a))


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
    assert rendered(draw_comparison(found), ["svg"])["svg"].startswith(b"<svg")
