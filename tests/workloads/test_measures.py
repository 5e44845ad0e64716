"""Every measure against an independent source: numpy, scipy, closed forms."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.specs import spec, two_by_two
from workloads import measures
from workloads.factorizations import factorization_of
from workloads.problems import realize
from workloads.snapshot import Snapshot, evaluate

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def snapshot(one, matrices):
    """Lanes whose end-to-end matrices or tensors are ``matrices`` [R, *shape]."""
    linear = one.model_copy(update={"factorization": spec(factorization={"kind": "linear"}, init=None).factorization, "init": None})
    params = [torch.from_numpy(np.asarray(matrices, dtype=np.float64))]
    count = len(params[0])
    loss = torch.arange(count, dtype=torch.float64)
    return Snapshot(factorization_of(linear), params, loss, [realize(one.problem, {})] * count, float(np.finfo(np.float64).eps))


def matrix_spec(rows, columns, observed=0.5):
    return spec(
        problem={"kind": "matrix_completion", "shape": [rows, columns], "target": {"rank": 1, "frobenius": 3.0}, "observed": observed}
    )


def reference(name, w, one):
    """The measure of one matrix, written with numpy and scipy from its definition."""
    s = scipy.linalg.svdvals(w)
    problem = realize(one.problem, {})
    match name.split("_")[0], name:
        case _, "frobenius":
            return [np.linalg.norm(w, "fro")]
        case _, "nuclear":
            return [np.linalg.norm(w, "nuc")]
        case _, "spectral":
            return [np.linalg.norm(w, 2)]
        case "schatten", _:
            p = float(name.split("_")[1])
            return [(s**p).sum() ** (1 / p)]
        case _, "effective_rank":
            return [np.exp(scipy.stats.entropy(s / s.sum()))]
        case _, "stable_rank":
            return [np.linalg.norm(w, "fro") ** 2 / np.linalg.norm(w, 2) ** 2]
        case _, "rank":
            return [np.linalg.matrix_rank(w)]
        case _, "det":
            return [scipy.linalg.det(w)]
        case "entry", _:
            return [w[tuple(int(i) for i in name.split("_")[1:])]]
        case _, "unobserved_max":
            return [np.abs(w.reshape(-1)[~problem.mask]).max()]
        case _, "error":
            truth = problem.truth.reshape(w.shape)
            return [np.linalg.norm(w - truth) / np.linalg.norm(truth)]
        case "rank", _:
            u, values, v = np.linalg.svd(w)
            kept = int(name.rpartition("_")[2])
            return [np.linalg.norm(w - (u[:, :kept] * values[:kept]) @ v[:kept])]
        case "singular", _:
            return list(s[:10])
    raise AssertionError(name)


SQUARE = ["det"]
ANY = [
    "frobenius",
    "nuclear",
    "spectral",
    "schatten_0.5",
    "schatten_1.5",
    "schatten_3",
    "effective_rank",
    "stable_rank",
    "rank",
    "entry_1_0",
    "unobserved_max",
    "error",
    "singular_values",
    "rank_distance_0",
    "rank_distance_1",
    "rank_distance_2",
]


@pytest.mark.parametrize("name", ANY + SQUARE)
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(2, 7), columns=st.integers(2, 7), rank=st.integers(1, 7), seed=st.integers(0, 2**31))
def test_equals_reference_on_random_matrices(name, rows, columns, rank, seed):
    if name in SQUARE:
        columns = rows
    one = matrix_spec(rows, columns)
    if name == "schatten_0.5":
        rank = 7  # a root magnifies the rounding of singular values that ought to be zero
    rng = np.random.default_rng(seed)
    matrices = np.stack([rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns)) for _ in range(3)])
    got = evaluate([name], snapshot(one, matrices))
    assert measures.undefined(name, one) is None
    assert got.shape[1] == len(measures.column_names(name, one))
    np.testing.assert_allclose(got, [reference(name, w, one) for w in matrices], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["nuclear", "effective_rank", "schatten_0.5"])
@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_scale_is_carried_without_overflow(name, scale):
    one = matrix_spec(3, 3)
    base, scaled = (evaluate([name], snapshot(one, c * np.diag([3.0, 2.0, 1.0])[None]))[0, 0] for c in (1.0, scale))
    assert scaled == pytest.approx(base * (1.0 if name == "effective_rank" else scale), rel=1e-10)


def test_closed_forms():
    one = matrix_spec(4, 4)
    names = ["effective_rank", "stable_rank", "rank", "nuclear", "schatten_2", "frobenius", "det"]
    identity, one_hot, zero = np.eye(4), np.zeros((4, 4)), np.zeros((4, 4))
    one_hot[1, 2] = 5.0
    got = evaluate(names, snapshot(one, np.stack([identity, one_hot, zero])))
    np.testing.assert_allclose(got[0], [4, 4, 4, 4, 2, 2, 1], **CLOSE)
    np.testing.assert_allclose(got[1], [1, 1, 1, 5, 5, 5, 0], **CLOSE)
    np.testing.assert_allclose(got[2], [0, 0, 0, 0, 0, 0, 0], **CLOSE)


def test_bound_of_the_two_by_two_problem_holds_for_its_own_minimizers():
    # arXiv 2005.06398, theorem 1: with det > 0 and loss l < 1/2, |w_11| >= (1 - sqrt(2 l))^2 / sqrt(2 l).
    one = two_by_two()
    e = 1e-3
    w = np.array([[[(1 - e) ** 2 / e * 1.0001, 1 - e], [1 - e, e]]])
    got = dict(
        zip(["det", "entry_0_0", "effective_rank"], evaluate(["det", "entry_0_0", "effective_rank"], snapshot(one, w))[0], strict=True)
    )
    loss = 0.5 * (2 * e**2 + e**2)
    assert got["det"] > 0
    assert got["entry_0_0"] >= (1 - np.sqrt(2 * loss)) ** 2 / np.sqrt(2 * loss)
    assert got["effective_rank"] < 1.01


def test_tensor_measures_against_numpy():
    one = spec(
        problem={"kind": "tensor_completion", "shape": [3, 4, 2], "target": {"rank": 2}, "observed": 10},
        factorization={"kind": "cp", "components": 12},
    )
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((5, n, 12)) for n in one.shape]
    problem = realize(one.problem, {})
    snap = Snapshot(factorization_of(one), [torch.from_numpy(f) for f in factors], torch.zeros(5), [problem] * 5, 1e-16)
    names = ["frobenius", "error", "components", "unfolding_effective_rank", "multilinear_rank", "entry_2_3_1"]
    got = evaluate(names, snap)
    for lane in range(5):
        w = np.einsum("ir,jr,kr->ijk", *(f[lane] for f in factors))
        parts = sorted((np.linalg.norm(np.einsum("i,j,k->ijk", *(f[lane][:, r] for f in factors))) for r in range(12)), reverse=True)
        ranks, numerical = [], []
        for mode in range(3):
            s = scipy.linalg.svdvals(np.moveaxis(w, mode, 0).reshape(one.shape[mode], -1))
            ranks.append(np.exp(scipy.stats.entropy(s / s.sum())))
            numerical.append(np.linalg.matrix_rank(np.moveaxis(w, mode, 0).reshape(one.shape[mode], -1)))
        truth = problem.truth.reshape(w.shape)
        want = [np.linalg.norm(w), np.linalg.norm(w - truth) / np.linalg.norm(truth), *parts[:10], *ranks, *numerical, w[2, 3, 1]]
        np.testing.assert_allclose(got[lane], want, **CLOSE)


def test_lanes_that_are_not_finite_give_nan_and_leave_the_others_alone():
    one = matrix_spec(3, 3)
    good = np.random.default_rng(1).standard_normal((3, 3))
    names = ["nuclear", "effective_rank", "rank", "schatten_0.5", "singular_values", "stable_rank"]
    got = evaluate(names, snapshot(one, np.stack([good, np.full((3, 3), np.nan), np.diag([1.0, np.inf, 1.0]), good])))
    alone = evaluate(names, snapshot(one, good[None]))
    np.testing.assert_array_equal(got[[0, 3]], np.concatenate([alone, alone]))
    assert np.isnan(got[[1, 2]]).all()


def test_each_lane_has_its_own_truth_and_its_own_observed_entries():
    problems = [matrix_spec(3, 3, observed=n).problem.model_copy(update={"seed": n}) for n in (3, 5, 7)]
    data = [realize(p, {}) for p in problems]
    w = np.random.default_rng(2).standard_normal((3, 3, 3))
    linear = spec(problem=problems[0].model_dump(), factorization={"kind": "linear"}, init=None)
    got = evaluate(["error", "unobserved_max"], Snapshot(factorization_of(linear), [torch.from_numpy(w)], torch.zeros(3), data, 1e-16))
    for lane, problem in enumerate(data):
        truth = problem.truth.reshape(3, 3)
        want = [np.linalg.norm(w[lane] - truth) / np.linalg.norm(truth), np.abs(w[lane].reshape(-1)[~problem.mask]).max()]
        np.testing.assert_allclose(got[lane], want, **CLOSE)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("det", "square"),
        ("entry_5_0", "inside shape"),
        ("entry_0", "inside shape"),
        ("components", "cp"),
        ("unfolding_effective_rank", "order three"),
        ("schatten_0", "above 0"),
        ("singular_values_0", "at least 1"),
    ],
)
def test_says_why_it_is_not_defined(name, reason):
    assert reason in (measures.undefined(name, matrix_spec(3, 4)) or "")


def test_error_needs_the_whole_truth():
    assert "ground truth" in (measures.undefined("error", two_by_two()) or "")


def test_every_measure_is_shown_by_a_name_that_finds_it():
    for row in measures.MEASURES:
        found = measures.find(row.shown)
        assert found is not None
        assert found[0] is row
        assert re.search(r"\[R", row.compute.__doc__ or ""), f"{row.shown} does not state its shape"


def test_unknown_names_are_refused():
    assert measures.find("nuclaer") is None
    with pytest.raises(KeyError):
        measures.undefined("nuclaer", two_by_two())


ELSEWHERE = {"loss": "test_engines", "cp_rank": "test_cp_rank", "infimal_nuclear": "test_infimal", "observed_0_1": "test_infimal"}
TENSORS = ["components", "unfolding_effective_rank", "multilinear_rank"]


def test_every_measure_is_held_to_an_independent_source():
    for row in measures.MEASURES:
        tested = [name for name in (*ANY, *SQUARE, *TENSORS, *ELSEWHERE) if row.match(name) is not None]
        assert tested, f"{row.shown} has no test"
