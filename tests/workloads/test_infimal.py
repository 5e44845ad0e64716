"""Infimal measures of the 2x2 completion problem against a search over the unobserved entry."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from tests.processes import run
from tests.specs import spec, two_by_two
from workloads import measures
from workloads.engines.base import create
from workloads.factorizations.linear import Linear
from workloads.measures.numerics.infima import INFIMA
from workloads.measures.numerics.snapshot import Snapshot, evaluate
from workloads.training.loop import train
from workloads.training.recording import Recording
from workloads.training.results import Finished
from workloads.trial import Trial

NORMS = ["nuclear", "frobenius", "spectral", "schatten_1", "schatten_2", "schatten_2.0"]
"""Convex in the unobserved entry and known in closed form whatever is observed."""
POWERS = [0.1, 0.5, 1.5, 3]
RANKS = ["rank", "rank_distance_1", "effective_rank", "stable_rank"]
PLACES = st.tuples(st.integers(0, 1), st.integers(0, 1))
VALUES = st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(-5, 5).filter(lambda v: abs(v) > 1e-3))
"""What is observed: zero, of equal size (where the nuclear norm's two branches meet), or anything."""


def norm(name, w):
    s = np.linalg.svd(w, compute_uv=False)
    power = {"nuclear": 1, "frobenius": 2, "spectral": np.inf}.get(name) or float(name.partition("_")[2])
    return np.linalg.norm(s, power)


def problem_with(place, beside, below, across):
    """A 2x2 completion whose entry at ``place`` is not observed."""
    i, j = place
    entries = [[i, 1 - j, beside], [1 - i, j, below], [1 - i, 1 - j, across]]
    return two_by_two(problem={"kind": "matrix_completion", "shape": [2, 2], "entries": entries})


def completed(place, beside, below, across, x):
    i, j = place
    w = np.empty((2, 2))
    w[i, j], w[i, 1 - j], w[1 - i, j], w[1 - i, 1 - j] = x, beside, below, across
    return w


def lanes(names, specs):
    """Infimal measures ``names`` [R, C] of R lanes, each with a problem of its own."""
    linear = specs[0].model_copy(update={"factorization": Linear(), "init": None})
    data = [one.problem.realize({}) for one in specs]
    w = torch.full((len(specs), 2, 2), 7.0, dtype=torch.float64)
    snapshot = Snapshot(linear.factorization, [w], torch.zeros(len(specs)), data, 1e-16)
    return evaluate([f"infimal_{name}" for name in names], snapshot)


def found(name, one):
    return float(lanes([name], [one])[0, 0])


def search(of, reach):
    """The least value of ``of``: on a grid and far out, then by Brent's method between the best point's neighbours.

    Brent's method finds x to 1e-8 relative, which at a kink is not enough; it goes on with the distance to what it found, twice.
    """
    grid = np.concatenate([-np.geomspace(1e12, 2, 30), np.linspace(-1, 1, 81), np.geomspace(2, 1e12, 30)]) * reach
    values = [of(x) for x in grid]
    best = int(np.argmin(values))
    center, width = grid[best], max(grid[min(best + 1, len(grid) - 1)] - grid[best], grid[best] - grid[max(best - 1, 0)])
    least = values[best]
    for _ in range(3):
        result = minimize_scalar(lambda y, at=center: of(at + y), bounds=(-width, width), method="bounded", options={"xatol": 1e-14})
        least = min(least, result.fun)
        center, width = center + result.x, width * 1e-6
    return least


@pytest.mark.parametrize("name", NORMS)
@settings(max_examples=40, deadline=None)
@given(place=PLACES, seen=st.tuples(VALUES, VALUES, VALUES))
def test_least_norm_is_that_of_a_search(name, place, seen):
    assume(any(seen))
    one = problem_with(place, *seen)
    assert measures.undefined(f"infimal_{name}", one) is None
    # At ab/c, where the norm has a kink, |x| may be large: the matrix of least norm is no larger than that at zero.
    reach = norm("nuclear", completed(place, *seen, 0.0))
    assert found(name, one) == pytest.approx(search(lambda x: norm(name, completed(place, *seen, x)), reach), rel=1e-10)


@pytest.mark.parametrize("power", POWERS)
@settings(max_examples=20, deadline=None)
@given(place=PLACES, beside=VALUES, below=VALUES)
def test_schatten_norms_where_the_entry_across_is_zero(power, place, beside, below):
    assume(beside or below)
    name = f"schatten_{power}"
    one = problem_with(place, beside, below, 0.0)
    assert measures.undefined(f"infimal_{name}", one) is None

    def of(x):
        # The smaller singular value from the determinant: a quasi-norm would magnify what rounding makes of it.
        top = np.linalg.svd(completed(place, beside, below, 0.0, x), compute_uv=False)[0]
        return (top**power + (abs(beside * below) / top) ** power) ** (1 / power)

    assert found(name, one) == pytest.approx(search(of, abs(beside) + abs(below)), rel=1e-10)


@settings(max_examples=60, deadline=None)
@given(place=PLACES, seen=st.tuples(VALUES, VALUES, VALUES))
def test_ranks_are_infima_over_all_completions(place, seen):
    one = problem_with(place, *seen)
    beside, below, across = seen
    xs = [0.0, *(s * 10.0**e for s in (-1, 1) for e in range(-2, 13)), *([beside * below / across] if across else [])]
    completions = [completed(place, *seen, x) for x in xs]
    values = np.array([np.linalg.svd(w, compute_uv=False) for w in completions])
    # A small singular value beside a large one is no low rank, so that the far completions are left out.
    numerical = min(np.linalg.matrix_rank(w, tol=1e-13 * max(1.0, np.abs(w).max())) for w in completions if np.abs(w).max() < 1e5)
    got = dict(zip(RANKS, lanes(RANKS, [one])[0], strict=True))
    assert all(measures.undefined(f"infimal_{name}", one) is None for name in RANKS)
    assert got["rank"] == numerical
    assert got["rank_distance_1"] == 0 <= values[:, 1].min() < 1e-9
    values = values[values[:, 0] > 0]
    if any(seen):
        share = values / values.sum(1, keepdims=True)
        effective = np.exp(-(share * np.log(np.where(share > 0, share, 1))).sum(1)).min()
        stable = ((values / values[:, :1]) ** 2).sum(1).min()
        assert (got["effective_rank"], got["stable_rank"]) == pytest.approx((effective, stable), rel=1e-10)
        assert got["effective_rank"] == got["stable_rank"] == 1
    else:
        # All zeros complete it, and the rank of the zero matrix is zero by every measure.
        assert got == dict.fromkeys(RANKS, 0)


def test_closed_forms_of_the_paper():
    """W = [[x, 1], [1, 0]] of arXiv 2005.06398: the least nuclear norm is 2; ranks approach one, which no completion has."""
    one = two_by_two()
    want = {"nuclear": 2, "frobenius": 2**0.5, "spectral": 1, "rank": 2, "rank_distance_1": 0, "effective_rank": 1, "stable_rank": 1}
    assert lanes([*want], [one])[0].tolist() == [*want.values()]
    assert found("schatten_0.5", one) == pytest.approx(4, rel=1e-14)


def test_zeros_and_extremes():
    names = [*NORMS, *RANKS, "schatten_0.5"]
    assert not lanes(names, [problem_with((1, 0), 0.0, 0.0, 0.0)]).any()
    scaled = [name for name in names if name not in RANKS]
    for seen in ((3.0, 2.0, 0.0), (1.0, 2.0, 1.0), (1.0, 2.0, 3.0)):
        which = [name for name in scaled if not seen[2] or name != "schatten_0.5"]
        base, *extreme = lanes(which, [problem_with((0, 0), *(c * v for v in seen)) for c in (1.0, 1e-150, 1e150)])
        for got, c in zip(extreme, (1e-150, 1e150), strict=True):
            np.testing.assert_allclose(got, c * base, rtol=1e-10, atol=0)
    # 1e-200 squared is zero; the rank is two all the same.
    assert found("rank", problem_with((0, 0), 1e-200, 1e-200, 0.0)) == 2


def test_every_lane_has_its_own_problem():
    names = [*NORMS, *RANKS]
    rng = np.random.default_rng(0)
    specs = [problem_with((n // 2 % 2, n % 2), *rng.choice([0.0, 0.5, -1.0, 2.5], 3).tolist()) for n in range(24)]
    np.testing.assert_array_equal(lanes(names, specs), np.concatenate([lanes(names, [one]) for one in specs]))


def test_where_it_is_defined():
    def reason(name, **problem):
        kind = "tensor_completion" if len(problem["shape"]) > 2 else "matrix_completion"
        linear = {"factorization": {"kind": "linear"}, "init": None}
        return measures.undefined(f"infimal_{name}", spec(problem={"kind": kind, **problem}, **linear))

    drawn = {"shape": [2, 2], "target": {"rank": 1}, "observed": 3}
    for other in ({"observed": 2}, {"observed": 4}, {"shape": [2, 3]}, {"shape": [2, 2, 2]}):
        assert "2x2 matrix with three observed" in reason("nuclear", **{**drawn, **other})
    for name in (*NORMS, *RANKS):
        assert reason(name, **drawn) is None
        assert reason(name, **{**drawn, "observed": 0.75}) is None
    # Rank one is within reach of what was drawn from it.
    seeds = [spec(problem={"kind": "matrix_completion", **drawn, "seed": seed}) for seed in range(8)]
    np.testing.assert_array_equal(lanes(RANKS, seeds), [[1, 0, 1, 1]] * 8)
    # Whether a drawn entry is zero is not known before the trial is.
    assert "powers 1 and 2" in reason("schatten_0.5", **drawn)
    assert "powers 1 and 2" in measures.undefined("infimal_schatten_0.5", problem_with((0, 1), 1.0, 1.0, 0.5))
    assert measures.undefined("infimal_schatten_0.5", problem_with((0, 1), 1.0, 1.0, 0.0)) is None
    assert "above 0" in measures.undefined("infimal_schatten_0", two_by_two())


def test_every_infimum_has_a_name_and_a_test():
    (row,) = (row for row in measures.MEASURES if row.shown == "infimal_nuclear")
    named = re.fullmatch(r"infimal_\((.*)\)", row.pattern).group(1).split("|")
    plain = {name for name in named if not name.startswith("schatten")}
    assert plain == INFIMA.keys() == {name for name in (*NORMS, *RANKS) if not name.startswith("schatten")}
    assert measures.find("infimal_det") is None


def test_planning_reads_the_table_without_torch():
    program = (
        "import sys, workloads.measures, workloads.measures.numerics.infima; assert not {'torch', 'numpy', 'scipy'} & sys.modules.keys()"
    )
    run([sys.executable, "-c", program]).check_returncode()


def test_they_and_observed_values_stay_the_same_along_a_trace():
    one = two_by_two(
        3,
        problem={"kind": "matrix_completion", "shape": [2, 2], "entries": [[0, 1, -2.0], [1, 0, 0.5], [1, 1, 0.1]]},
        stop={"steps": 50},
        init={"kind": "gaussian", "scale": 0.5},
    )
    infima = [f"infimal_{name}" for name in (*NORMS, *RANKS)]
    recording = Recording((*infima, "observed_0_1", "observed_1_1", "observed_0_0", "nuclear"), points=5)
    (result,) = [r for e in train([Trial("a", one)], recording, create("batched")) if isinstance(e, Finished) for r in e.results]
    columns = dict(zip(result.trace.columns, result.trace.values.T, strict=True))
    assert all(len(set(columns[name])) == 1 for name in infima)
    assert columns["infimal_nuclear"][0] == pytest.approx(2.5)
    assert (set(columns["observed_0_1"]), set(columns["observed_1_1"])) == ({-2.0}, {0.1})
    assert np.isnan(columns["observed_0_0"]).all()
    assert len(set(columns["nuclear"])) > 1
