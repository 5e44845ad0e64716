"""Every measure against an independent source: known spectra, closed forms, exact arithmetic, numpy, scipy, tensorly.

`HELD` has a row per row of the registry: names to test, inputs, and the same number from elsewhere. What does not fit one matrix or
tensor at a time has a test of its own, in `TESTED_APART`. `test_every_measure_is_held` compares both with the registry.

Matrices are made from singular values chosen beforehand, so that no second decomposition has to be trusted. Everything agrees to 1e-10
relative to the result, except where rounding the matrix alone moves the result further: `Known.allowed` says how far.
"""

from __future__ import annotations

import cmath
import inspect
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.specs import spec, two_by_two
from tests.workloads import test_autoencoder, test_distances, test_gradient_flow, test_hierarchical, test_infimal, test_landscape
from workloads import measures
from workloads.engines.base import create
from workloads.measures.numerics.snapshot import Snapshot, evaluate
from workloads.training.loop import train
from workloads.training.recording import Recording
from workloads.training.results import Finished
from workloads.trial import Trial

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
EPSILON = float(np.finfo(np.float64).eps)
NORM = 3.0
"""Frobenius norm of the drawn ground truths."""


def completion(shape, observed=0.5):
    """Of vectors, which are not completed, sensing."""
    kind = {1: "vector_sensing", 2: "matrix_completion"}.get(len(shape), "tensor_completion")
    rank = {} if len(shape) == 1 else {"rank": 1}
    observed = 1 if len(shape) == 1 else observed
    return spec(
        problem={"kind": kind, "shape": list(shape), "target": {**rank, "frobenius": NORM}, "observed": observed},
        factorization={"kind": "linear"},
        init=None,
    )


def snapshot(one, lanes, problems=None, epsilon=EPSILON):
    """Lanes whose end-to-end matrices or tensors are ``lanes`` [R, *shape]; their losses are 0, 1, 2, ..."""
    params = [torch.from_numpy(np.asarray(lanes, dtype=np.float64))]
    linear = one.model_copy(update={"factorization": completion(one.shape).factorization, "init": None})
    loss = torch.arange(len(params[0]), dtype=torch.float64)
    return Snapshot(linear.factorization, params, loss, problems or [one.problem.realize({})] * len(params[0]), epsilon)


# ----------------------------------------------------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Known:
    """A matrix or tensor ``w`` [*shape] and what is known of it beforehand.

    ``problem`` is what is observed; ``s`` [min(shape)] are the singular values of a matrix, the largest first; ``ranks`` [N] are those
    of a tensor's unfoldings.
    """

    w: np.ndarray
    problem: object
    s: np.ndarray | None = None
    ranks: tuple[int, ...] | None = None

    def allowed(self, held, arguments, want):
        """How far each number may be from ``want``: 1e-10 relative, and what rounding is bound to do."""
        return 1e-10 * np.abs(want) + (held.rounding(self, *arguments) if held.rounding else 0.0)

    @property
    def moved(self):
        """A bound of how far the singular values may have moved when ``w`` was made and decomposed (Weyl): some epsilons of the largest."""
        return 20 * max(self.w.shape) * EPSILON * self.s[0]


@st.composite
def spectra(draw, square=False):
    """Matrices [m, n] of known singular values: any number of them zero, the others within six orders of magnitude."""
    rows = draw(st.integers(1, 7))
    columns = rows if square else draw(st.integers(1, 7))
    one = completion((rows, columns), draw(st.integers(1, rows * columns)))
    value = st.one_of(st.just(0.0), st.just(1.0), st.floats(-3, 3).map(lambda e: 10.0**e))
    s = np.array(sorted(draw(st.lists(value, min_size=min(rows, columns), max_size=min(rows, columns))), reverse=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    left, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (rows, columns))
    return one, Known((left[:, : len(s)] * s) @ right[: len(s)], one.problem.realize({}), s=s)


@st.composite
def values(draw, orders=(2, 3, 4), square=False):
    """Matrices and tensors of entries up to 1e3, zeros and equal ones among them.

    None is smaller than 1e-30 but for zeros: products of a few would be subnormal, where no decomposition is accurate.
    """
    order = draw(st.sampled_from(orders))
    shape = (draw(st.integers(1, 5)),) * 2 if square else tuple(draw(st.lists(st.integers(1, 5), min_size=order, max_size=order)))
    one = completion(shape, draw(st.integers(1, math.prod(shape))))
    w = draw(arrays(np.float64, shape, elements=st.floats(-1e3, 1e3).filter(lambda v: v == 0 or abs(v) > 1e-30)))
    return one, Known(w, one.problem.realize({}))


@st.composite
def sparse(draw):
    """Vectors of known numbers of entries that are not zero, of magnitudes from 1 to 1e3."""
    w = np.array(draw(st.lists(st.one_of(st.just(0.0), st.floats(1, 1e3), st.floats(-1e3, -1)), min_size=1, max_size=12)))
    one = completion(w.shape, 1)
    return one, Known(w, one.problem.realize({}))


@st.composite
def tensors(draw):
    """Tensors of known multilinear rank: a core [r_1, ..., r_N] in general position, turned by orthonormal columns in every mode."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=3, max_size=4)))
    ranks = [draw(st.integers(0, n)) for n in shape]
    # No unfolding has a higher rank than its other modes together; taken down until none has.
    while any(r > math.prod(ranks) // r for r in ranks if r) or (0 in ranks and any(ranks)):
        ranks = [0 if 0 in ranks else min(r, math.prod(ranks) // r) for r in ranks]
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    w = rng.standard_normal([max(r, 1) for r in ranks]) * (0.0 if 0 in ranks else 1.0)
    for mode, (n, r) in enumerate(zip(shape, ranks, strict=True)):
        turned = np.linalg.qr(rng.standard_normal((n, max(r, 1))))[0]
        w = np.moveaxis(np.tensordot(turned, w, axes=(1, mode)), 0, mode)
    one = completion(shape, 1)
    return one, Known(w, one.problem.realize({}), ranks=tuple(ranks))


# ------------------------------------------------------------------------------------------------- the same from elsewhere


def schatten(x, power):
    p = float(power)
    if not x.s.any():
        return 0.0
    return x.s[0] * math.fsum((s / x.s[0]) ** p for s in x.s) ** (1 / p)


def schatten_rounding(x, power):
    """How far p-th powers of singular values that are off by d may move the norm.

    |t^p - s^p| <= d^p for p < 1 and any s: a zero that became 1e-16 adds (1e-16)^p. Away from zero, s > 2d, it is p d (s/2)^(p-1) at most.
    """
    p = float(power)
    if p >= 1 or not x.s.any():
        return len(x.s) * x.moved
    s, d = x.s / x.s[0], x.moved / x.s[0]
    each = np.where(s > 2 * d, p * d * np.maximum(s / 2, d) ** (p - 1), d**p)
    total = (s**p).sum()
    return x.s[0] * ((total + each.sum()) ** (1 / p) - total ** (1 / p))


def effective_rank(s):
    return float(np.exp(scipy.stats.entropy(s))) if s.any() else 0.0


def power_norm(magnitudes, power):
    """Of numbers that are at most 1e3, whose powers do not overflow."""
    if power == "inf":
        return max(magnitudes)
    return math.fsum(m ** float(power) for m in magnitudes) ** (1 / float(power))


def transform(x):
    """Magnitudes of the discrete Fourier transform, by its definition."""
    size = len(x.w)
    sums = [sum(v * cmath.exp(-2j * math.pi * j * k / size) for j, v in enumerate(x.w)) for k in range(size)]
    return [abs(each) / math.sqrt(size) for each in sums]


def unseen(x):
    """By numpy's pseudo-inverse of the measurements, or of the rows of the identity at observed entries."""
    rows = np.eye(x.w.size)[x.problem.mask] if x.problem.measurements is None else x.problem.measurements
    w = x.w.reshape(-1)
    return np.linalg.norm(w - np.linalg.pinv(rows) @ (rows @ w))


def exact_det(x):
    """Leibniz' sum over permutations in rational arithmetic, which rounds nothing."""
    n = len(x.w)
    table = [[Fraction(float(v)) for v in row] for row in x.w]
    total = Fraction(0)
    for order in itertools.permutations(range(n)):
        sign = (-1) ** sum(order[i] > order[j] for i in range(n) for j in range(i + 1, n))
        total += sign * math.prod(table[i][order[i]] for i in range(n))
    return float(total)


def det_rounding(x):
    """Some epsilons of Hadamard's bound, which is the size of the terms that cancel."""
    return 1e-13 * math.prod(math.hypot(*row) for row in x.w.tolist())


def error(x):
    truth = x.problem.truth
    return math.hypot(*(x.w.reshape(-1) - truth).tolist()) / NORM


def unobserved_max(x):
    return max((abs(v) for v, seen in zip(x.w.reshape(-1).tolist(), x.problem.mask, strict=True) if not seen), default=math.nan)


def indices(text):
    return tuple(int(n) for n in re.findall(r"\d+", text))


def observed(x, text):
    place = np.ravel_multi_index(indices(text), x.w.shape)
    return x.problem.truth[place] if x.problem.mask[place] else math.nan


def unfolding_effective_ranks(x):
    spectra = (scipy.linalg.svdvals(tensorly.unfold(x.w, mode)) for mode in range(x.w.ndim))
    return [effective_rank(s) for s in spectra]


def matricized(x, text):
    """Singular values of the matrix whose rows are the modes named, as numpy transposes it."""
    modes = [int(n) for n in text.strip("_").split("_")]
    others = [n for n in range(x.w.ndim) if n not in modes]
    return scipy.linalg.svdvals(x.w.transpose(*modes, *others).reshape(math.prod(x.w.shape[n] for n in modes), -1))


def some_modes(prefix):
    """The name of any but all modes."""
    return lambda shape: st.sets(st.integers(0, len(shape) - 1), min_size=1, max_size=len(shape) - 1).map(
        lambda s: "_".join([prefix, *map(str, sorted(s))])
    )


@dataclass(frozen=True)
class Held:
    """How a row of the registry is tested: by which ``names``, on what, and against what.

    ``reference`` maps a `Known` and the arguments in the name to a number or a list; ``rounding`` to the distance allowed besides 1e-10
    relative. ``name`` gives the names where they depend on the shape.
    """

    given: st.SearchStrategy
    reference: Callable
    names: tuple[str, ...] = ()
    name: Callable | None = None
    rounding: Callable | None = None


def some_entry(prefix):
    """The name of any one entry."""
    return lambda shape: st.tuples(*(st.integers(0, n - 1) for n in shape)).map(lambda i: "_".join([prefix, *map(str, i)]))


HELD = {
    "error": Held(values((1, 2, 3, 4)), error),
    "l1": Held(
        values((1, 2, 3)),
        lambda x, power: power_norm(abs(x.w.reshape(-1)).tolist(), power),
        names=("l1", "l2", "l0.5", "l0.667", "l3", "linf"),
    ),
    "effective_sparsity": Held(
        values((1, 2, 3)), lambda x: math.fsum(abs(x.w.reshape(-1))) ** 2 / math.fsum(x.w.reshape(-1) ** 2) if x.w.any() else 0.0
    ),
    "unseen_norm": Held(values((1, 2, 3)), unseen, rounding=lambda x: 1e-13 * np.linalg.norm(x.w)),
    "nonzeros": Held(sparse(), lambda x: np.count_nonzero(x.w)),
    "fourier_l1": Held(
        values((1,)),
        lambda x, power: power_norm(transform(x), power),
        names=("fourier_l1", "fourier_l2", "fourier_l3", "fourier_linf"),
        rounding=lambda x, _: 1e-13 * np.linalg.norm(x.w),
    ),
    "frobenius": Held(values((1, 2, 3, 4)), lambda x: math.hypot(*x.w.reshape(-1).tolist())),
    "nuclear": Held(spectra(), lambda x: math.fsum(x.s)),
    "spectral": Held(spectra(), lambda x: x.s[0]),
    "schatten_0.5": Held(
        spectra(), schatten, names=("schatten_0.1", "schatten_0.5", "schatten_1", "schatten_2", "schatten_7.25"), rounding=schatten_rounding
    ),
    "ky_fan_2": Held(
        spectra(),
        lambda x, count: math.fsum(x.s[: int(count)]),
        name=lambda shape: st.integers(1, min(shape)).map(lambda k: f"ky_fan_{k}"),
        rounding=lambda x, *_: len(x.s) * x.moved,
    ),
    "effective_rank": Held(spectra(), lambda x: effective_rank(x.s)),
    "stable_rank": Held(spectra(), lambda x: math.fsum((s / x.s[0]) ** 2 for s in x.s) if x.s.any() else 0.0),
    "rank": Held(spectra(), lambda x: np.count_nonzero(x.s)),
    "det": Held(values(orders=(2,), square=True), exact_det, rounding=det_rounding),
    "entry_0_0": Held(values((1, 2, 3, 4)), lambda x, text: x.w[indices(text)], name=some_entry("entry")),
    "observed_0_1": Held(values(), observed, name=some_entry("observed")),
    "unobserved_max": Held(values(), unobserved_max),
    "singular_values": Held(
        spectra(),
        lambda x, count: x.s[: int(count or 10)],
        names=("singular_values", "singular_values_1", "singular_values_3", "singular_values_25"),
        rounding=lambda x, *_: x.moved,
    ),
    "rank_distance_1": Held(
        spectra(),
        lambda x, rank: math.hypot(*x.s[int(rank) :].tolist()),
        name=lambda shape: st.integers(0, min(shape)).map(lambda r: f"rank_distance_{r}"),
        rounding=lambda x, *_: len(x.s) * x.moved,
    ),
    "unfolding_effective_rank": Held(tensors(), unfolding_effective_ranks),
    "singular_values_at_0_1": Held(
        values((3, 4)),
        lambda x, text: matricized(x, text)[:10],
        name=some_modes("singular_values_at"),
        rounding=lambda x, _: 1e-13 * np.linalg.norm(x.w),
    ),
    "effective_rank_at_0_1": Held(tensors(), lambda x, text: effective_rank(matricized(x, text)), name=some_modes("effective_rank_at")),
    # Of one mode, whose ranks are known; of several in tests/workloads/test_hierarchical.py.
    "rank_at_0_1": Held(
        tensors(),
        lambda x, text: x.ranks[int(text.strip("_"))],
        name=lambda shape: st.integers(0, len(shape) - 1).map(lambda mode: f"rank_at_{mode}"),
    ),
    "multilinear_rank": Held(tensors(), lambda x: x.ranks),
}
"""By the name that the registry shows."""


@pytest.mark.parametrize("shown", HELD)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equals_an_independent_source(shown, data):
    held = HELD[shown]
    one, known = data.draw(held.given)
    name = data.draw(held.name(one.shape) if held.name else st.sampled_from(held.names or (shown,)))
    row, arguments = measures.find(name)
    assert row.shown == shown
    reason = measures.undefined(name, one)
    # The only choice above that leaves a measure undefined.
    assert reason is None or (shown == "unobserved_max" and known.problem.mask.all())
    want = np.atleast_1d(np.asarray(held.reference(known, *arguments), dtype=np.float64))
    # Between a zero neighbour and a flipped one, which must change nothing.
    got = evaluate([name], snapshot(one, np.stack([np.zeros(one.shape), known.w, known.w[::-1]])))
    assert got.shape == (3, len(want)) == (3, len(measures.column_names(name, one)))
    np.testing.assert_array_equal(np.isnan(got[1]), np.isnan(want))
    assert (np.nan_to_num(np.abs(got[1] - want)) <= known.allowed(held, arguments, np.nan_to_num(want))).all(), (got[1], want)


def test_the_tolerance_tells_a_zero_from_its_rounding():
    """Where conditioning costs most: a quasi-norm of a matrix of rank one is known to (1e-16)^p only, one of full rank to 1e-10."""
    full, one = (Known(np.diag(s), None, s=np.array(s)) for s in ([2.0, 1.0, 0.5], [2.0, 0.0, 0.0]))
    assert schatten_rounding(full, "0.5") < 1e-10 * schatten(full, "0.5")
    assert 1e-8 < schatten_rounding(one, "0.5") / schatten(one, "0.5") < 1e-5


# ----------------------------------------------------------------------------------------------------- what is tested apart


@pytest.mark.parametrize("kind", ["half_sse", "mse"])
def test_recorded_loss_is_that_of_the_recorded_entries(kind):
    one = spec(loss=kind, stop={"steps": 30}, init={"kind": "gaussian", "scale": 0.5})
    entries = [f"entry_{i}_{j}" for i in range(4) for j in range(4)]
    events = train([Trial("a", one)], Recording(("loss", *entries), points=12), create("batched"))
    (trace,) = (r.trace for e in events if isinstance(e, Finished) for r in e.results)
    columns = dict(zip(trace.columns, trace.values.T, strict=True))
    problem = one.problem.realize({})
    errors = np.stack([columns[name] for name in entries], axis=1)[:, problem.mask] - problem.target[problem.mask]
    want = {"half_sse": 0.5 * np.square(errors).sum(1), "mse": np.square(errors).mean(1)}[kind]
    assert len(want) > 10
    np.testing.assert_allclose(columns["loss"], want, **CLOSE)
    np.testing.assert_array_equal(evaluate(["loss"], snapshot(one, np.zeros((3, 4, 4))))[:, 0], [0, 1, 2])


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(1, 4), min_size=2, max_size=4), terms=st.integers(1, 14), seed=st.integers(0, 2**31))
def test_components_are_the_norms_of_the_outer_products(shape, terms, seed):
    kind = "matrix_completion" if len(shape) == 2 else "tensor_completion"
    one = spec(
        problem={"kind": kind, "shape": shape, "target": {"rank": 1}, "observed": 1}, factorization={"kind": "cp", "components": terms}
    )
    rng = np.random.default_rng(seed)
    factors = [rng.standard_normal((2, n, terms)) for n in shape]
    lanes = Snapshot(one.factorization, [torch.from_numpy(f) for f in factors], torch.zeros(2), [one.problem.realize({})] * 2, EPSILON)
    got = evaluate(["components", "frobenius"], lanes)
    assert measures.undefined("components", one) is None
    assert [*measures.column_names("components", one)] == [f"component_{k}" for k in range(min(terms, 10))]
    for lane in range(2):
        parts = [tensorly.cp_to_tensor((None, [f[lane][:, [r]] for f in factors])) for r in range(terms)]
        norms = sorted((np.linalg.norm(p) for p in parts), reverse=True)
        np.testing.assert_allclose(got[lane], [*norms[:10], np.linalg.norm(sum(parts))], **CLOSE)


@settings(max_examples=5, deadline=None)
@given(sizes=st.lists(st.integers(3, 4), min_size=3, max_size=3), rank=st.integers(0, 3), seed=st.integers(0, 2**31), tiny=st.booleans())
def test_cp_rank_of_orthogonal_components(sizes, rank, seed, tiny):
    """Of orthogonal components the best approximation by fewer leaves the smallest ones out.

    One that is left out at a mean squared error of 0.4e-6 does not count. Those that count are of equal size: where one is a hundredth of
    the others, alternating least squares from random starts, tensorly's too, does not find it.
    """
    rng = np.random.default_rng(seed)
    weights = [1.0] * rank + [math.sqrt(0.4e-6 * math.prod(sizes))] * (tiny and rank < min(sizes))
    factors = [np.linalg.qr(rng.standard_normal((n, n)))[0][:, : len(weights)] for n in sizes]
    w = np.einsum("r,ir,jr,kr->ijk", weights, *factors)
    assert evaluate(["cp_rank"], snapshot(completion(sizes, 1), w[None])).tolist() == [[float(rank)]]


HOLDING = [
    {"observed": 7}, {"observed": 7, "held_out": 0.3}, {"observed": 7, "held_out": 4, "noise": {"std": 0.5}}, {"observed": 7, "noise": {"std": 0.5}}
]  # fmt: skip


@pytest.mark.parametrize("keys", HOLDING)
def test_held_out_errors_are_over_the_entries_that_are_held_out(keys):
    one = spec(problem={"kind": "matrix_completion", "shape": [4, 5], "target": {"rank": 2, "frobenius": 3.0}, **keys})
    data = one.problem.realize({})
    w = np.random.default_rng(0).standard_normal((2, 4, 5))
    got = evaluate(["held_out_error", "held_out_rmse"], snapshot(one, w))
    # All that is not observed, unless some are named, as it would have been observed.
    every = spec(
        problem={
            "kind": "matrix_completion",
            "shape": [4, 5],
            "target": {"rank": 2, "frobenius": 3.0},
            **keys,
            "observed": 20,
            "held_out": None,
        }
    )
    values = every.problem.realize({}).target
    held = np.flatnonzero(~data.mask) if data.held_out is None else data.held_out[0]
    assert len(held) == one.problem.held_out_entries() == {None: 13, 0.3: 6, 4: 4}[keys.get("held_out")]
    assert not data.mask[held].any()
    for lane in range(2):
        apart = [w[lane].ravel()[n] - values[n] for n in held]
        norm = math.sqrt(math.fsum(v * v for v in apart))
        assert got[lane][0] == pytest.approx(norm / math.sqrt(math.fsum(values[n] ** 2 for n in held)), rel=1e-12)
        assert got[lane][1] == pytest.approx(norm / math.sqrt(len(held)), rel=1e-12)


def regression(**keys):
    """A vector of 4 entries from 3 examples."""
    problem = {"kind": "regression", "shape": [4], "target": {"frobenius": 3.0}, "observed": 3, **keys}
    return spec(problem=problem, factorization={"kind": "linear"}, init=None)


def test_held_out_errors_of_a_regression_are_over_its_examples():
    specs = [regression(held_out=count, seed=n, noise={"std": 0.5}) for n, count in enumerate((5, 2))]
    data = [one.problem.realize({}) for one in specs]
    w = np.random.default_rng(0).standard_normal((2, 4))
    got = evaluate(["held_out_error", "held_out_rmse"], snapshot(specs[0], w, data))
    for lane, (one, count) in enumerate(zip(data, (5, 2), strict=True)):
        rows, values = one.held_out_measurements
        assert rows.shape == (count, 4)
        assert not np.isclose(values, rows @ one.truth).any(), "they are observed with noise"
        apart = [math.fsum(x * v for x, v in zip(row, w[lane], strict=True)) - y for row, y in zip(rows, values, strict=True)]
        assert got[lane][0] == pytest.approx(math.hypot(*apart) / math.hypot(*values), rel=1e-12)
        assert got[lane][1] == pytest.approx(math.hypot(*apart) / math.sqrt(count), rel=1e-12)


def test_nothing_is_held_out_where_all_that_is_known_is_observed():
    for name in ("held_out_error", "held_out_rmse"):
        assert measures.undefined(name, two_by_two()) == "needs entries that are known but not observed"
        assert measures.undefined(name, spec(problem__observed=16)) == "needs entries that are known but not observed"
        sensed = measures.undefined(name, spec(problem__kind="matrix_sensing"))
        assert sensed == "is defined for completion problems, regression and reconstruction only"
        assert measures.undefined(name, regression()) == "needs problem.held_out"


TESTED_APART = {
    "components_at_0_1": (test_hierarchical.test_component_norms_are_products_of_norms_at_each_node,),
    "unbalancedness": (
        test_hierarchical.test_unbalancedness_of_components_is_a_difference_of_squared_norms,
        test_hierarchical.test_unbalancedness_of_matrices_and_of_cp,
    ),
    "held_out_error": (
        test_held_out_errors_are_over_the_entries_that_are_held_out,
        test_held_out_errors_of_a_regression_are_over_its_examples,
    ),
    "held_out_rmse": (
        test_held_out_errors_are_over_the_entries_that_are_held_out,
        test_held_out_errors_of_a_regression_are_over_its_examples,
    ),
    "loss": (test_recorded_loss_is_that_of_the_recorded_entries,),
    "components": (test_components_are_the_norms_of_the_outer_products,),
    **dict.fromkeys(
        ("code_singular_values", "code_spectrum", "code_effective_rank", "code_rank_0.01"),
        (test_autoencoder.test_codes_and_held_out_images_are_measured_as_numpy_measures_them,),
    ),
    "cp_rank": (test_cp_rank_of_orthogonal_components,),  # and tests/workloads/test_cp_rank.py
    "distance_to_nuclear_norm": (test_distances.test_distance_to_the_least_nuclear_norm_is_the_error_where_that_recovers_the_truth,),
    "distance_to_reference": (test_distances.test_distance_to_an_array_is_that_of_numpy,),
    "time": (test_gradient_flow.test_it_is_scipys_flow_to_its_tolerance,),
    "gradient_norm": (test_landscape.test_gradient_norm_and_sharpness_are_those_of_dense_hessians,),
    "sharpness": (
        test_landscape.test_gradient_norm_and_sharpness_are_those_of_dense_hessians,
        test_landscape.test_sharpness_of_what_is_too_large_for_a_dense_hessian_every_time,
    ),
    "factor_norms": (test_landscape.test_factors_are_measured_as_numpy_measures_them,),
    "factor_singular_values": (test_landscape.test_factors_are_measured_as_numpy_measures_them,),
    "alignment": (test_landscape.test_alignment_is_that_of_leading_singular_vectors,),
    "start_distance": (test_landscape.test_distance_from_the_start_is_that_of_all_parameters_also_after_a_trial_has_ended,),
    "infimal_nuclear": (
        test_infimal.test_least_norm_is_that_of_a_search,
        test_infimal.test_schatten_norms_where_the_entry_across_is_zero,
        test_infimal.test_ranks_are_infima_over_all_completions,
    ),
}


def test_every_measure_is_held_to_an_independent_source():
    tested = HELD.keys() | TESTED_APART.keys()
    for row in measures.MEASURES:
        assert row.shown in tested, f"{row.shown} has no test: give it a row in HELD or TESTED_APART"
        # Neither may call what it tests.
        source = HELD[row.shown].reference if row.shown in HELD else TESTED_APART[row.shown][0]
        assert not inspect.getmodule(source).__name__.startswith("workloads")
    assert tested == {row.shown for row in measures.MEASURES}, "a test is left over from a measure that is gone"


# ------------------------------------------------------------------------------------------------------- where it matters


SCALED = {
    "nuclear": 1,
    "spectral": 1,
    "frobenius": 1,
    "schatten_0.5": 1,
    "schatten_3": 1,
    "singular_values": 1,
    "rank_distance_1": 1,
    "unobserved_max": 1,
    "l1": 1,
    "l0.5": 1,
    "effective_sparsity": 0,
    "nonzeros": 0,
    "effective_rank": 0,
    "stable_rank": 0,
    "rank": 0,
}
"""Measures that scale with the matrix, and those that do not."""


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_scale_is_carried_without_overflow(name, scale):
    one = completion((3, 3), 4)
    base, scaled = (evaluate([name], snapshot(one, c * np.diag([3.0, 2.0, 1.0])[None]))[0] for c in (1.0, scale))
    assert scaled == pytest.approx(base * scale ** SCALED[name], rel=1e-10, abs=0)


def test_closed_forms():
    one = completion((4, 4))
    names = ["effective_rank", "stable_rank", "rank", "nuclear", "schatten_2", "frobenius", "det", "rank_distance_1"]
    identity, one_hot, zero = np.eye(4), np.zeros((4, 4)), np.zeros((4, 4))
    one_hot[1, 2] = 5.0
    got = evaluate(names, snapshot(one, np.stack([identity, one_hot, zero])))
    np.testing.assert_allclose(got[0], [4, 4, 4, 4, 2, 2, 1, math.sqrt(3)], **CLOSE)
    np.testing.assert_allclose(got[1], [1, 1, 1, 5, 5, 5, 0, 0], **CLOSE)
    np.testing.assert_allclose(got[2], [0, 0, 0, 0, 0, 0, 0, 0], **CLOSE)


def test_numerical_ranks_count_by_the_precision_of_the_trial():
    one, cube = completion((3, 4)), completion((2, 2, 3), 4)
    matrix, tensor = np.zeros((1, 3, 4)), np.zeros((1, 2, 2, 3))
    matrix[0, [0, 1, 2], [0, 1, 2]] = tensor[0, [0, 1, 1], [0, 0, 1], [0, 1, 2]] = [1.0, 1e-9, 1e-18]
    single = float(np.finfo(np.float32).eps)
    assert evaluate(["rank"], snapshot(one, matrix)).tolist() == [[2]]
    assert evaluate(["rank"], snapshot(one, matrix, epsilon=single)).tolist() == [[1]]
    assert evaluate(["multilinear_rank"], snapshot(cube, tensor)).tolist() == [[2, 1, 2]]
    assert evaluate(["multilinear_rank"], snapshot(cube, tensor, epsilon=single)).tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(("side", "rank"), [(1 + 1e-6, 2), (1 - 1e-6, 1)])
def test_the_threshold_of_the_numerical_rank_is_that_of_numpy(side, rank):
    """max(m, n) times epsilon times the largest singular value."""
    one = completion((2, 5))
    matrix = np.zeros((2, 5))
    matrix[[0, 1], [0, 1]] = 7.0, 7.0 * 5 * EPSILON * side
    assert evaluate(["rank"], snapshot(one, matrix[None])).tolist() == [[rank]] == [[np.linalg.matrix_rank(matrix)]]
    # Of the three unfoldings of a 2x5x1 tensor one is this matrix, one its transpose; the third is 1x10, and all count by the widest.
    tensor = matrix.reshape(1, 2, 5, 1) * np.array([1.0, 2.0])[None, :, None, None]
    assert evaluate(["multilinear_rank"], snapshot(completion((2, 5, 1), 4), tensor)).tolist() == [[rank, rank, 1]]


def test_bound_of_the_two_by_two_problem_holds_for_its_own_minimizers():
    # arXiv 2005.06398, theorem 1: with det > 0 and loss l < 1/2, |w_11| >= (1 - sqrt(2 l))^2 / sqrt(2 l).
    one = two_by_two()
    e = 1e-3
    w = np.array([[[(1 - e) ** 2 / e * 1.0001, 1 - e], [1 - e, e]]])
    names = ["det", "entry_0_0", "effective_rank"]
    got = dict(zip(names, evaluate(names, snapshot(one, w))[0], strict=True))
    loss = 0.5 * (2 * e**2 + e**2)
    assert got["det"] > 0
    assert got["entry_0_0"] >= (1 - np.sqrt(2 * loss)) ** 2 / np.sqrt(2 * loss)
    assert got["effective_rank"] < 1.01


SPECTRAL = ["nuclear", "spectral", "effective_rank", "rank", "schatten_0.5", "singular_values_2", "stable_rank", "rank_distance_1"]


@pytest.mark.parametrize(("shape", "names"), [((3, 3), SPECTRAL), ((3, 2, 3), ["unfolding_effective_rank", "multilinear_rank"])])
def test_lanes_that_are_not_finite_give_nan_and_leave_the_others_alone(shape, names):
    one = completion(shape, 4)
    good = np.random.default_rng(1).standard_normal(shape)
    infinite = good.copy()
    infinite[(0,) * len(shape)] = np.inf
    got = evaluate(names, snapshot(one, np.stack([good, np.full(shape, np.nan), infinite, good])))
    alone = evaluate(names, snapshot(one, good[None]))
    np.testing.assert_array_equal(got[[0, 3]], np.concatenate([alone, alone]))
    assert np.isnan(got[[1, 2]]).all()


def test_each_lane_has_its_own_truth_and_its_own_observed_entries():
    counts = (3, 5, 9)
    problems = [completion((3, 3), n).problem.model_copy(update={"seed": n}).realize({}) for n in counts]
    w = np.random.default_rng(2).standard_normal((4, 3, 3))
    order = [2, 0, 1, 0]
    names = ["error", "unobserved_max", "observed_1_2", "observed_0_0"]
    got = evaluate(names, snapshot(completion((3, 3)), w, [problems[n] for n in order]))
    for lane, number in enumerate(order):
        known = Known(w[lane], problems[number])
        want = [error(known), unobserved_max(known), observed(known, "1_2"), observed(known, "0_0")]
        np.testing.assert_allclose(got[lane], want, **CLOSE)
    assert np.isnan(got[0, 1]), "all entries of the first lane are observed"
    assert not np.isnan(got[:, 0]).any()


# ------------------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("det", "square"),
        ("entry_5_0", "inside shape"),
        ("entry_0", "inside shape"),
        ("observed_0_4", "inside shape"),
        ("components", "cp"),
        ("unfolding_effective_rank", "order three"),
        ("multilinear_rank", "order three"),
        ("cp_rank", "order three"),
        ("schatten_0", "above 0"),
        ("singular_values_0", "at least 1"),
        ("rank_distance_4", "at most 3"),
        ("infimal_nuclear", "2x2"),
    ],
)
def test_says_why_it_is_not_defined(name, reason):
    assert reason in (measures.undefined(name, completion((3, 4))) or "")


@pytest.mark.parametrize("name", [*SPECTRAL, "det"])
def test_measures_of_matrices_are_not_defined_for_tensors_and_vectors(name):
    assert "matrices" in (measures.undefined(name, completion((3, 3, 3))) or "")
    assert "matrices" in (measures.undefined(name, completion((3,), 2)) or "")


@pytest.mark.parametrize("name", ["multilinear_rank", "unfolding_effective_rank", "cp_rank", "rank_at_0", "components"])
def test_measures_of_tensors_are_not_defined_for_vectors(name):
    assert measures.undefined(name, completion((3,), 2))


def test_measures_of_transforms_are_for_vectors():
    assert measures.undefined("fourier_l1", completion((3, 3))) == "is defined for vectors only"
    assert measures.undefined("l0", completion((3,), 2)) == "needs a power above 0"


@pytest.mark.parametrize("name", ["unobserved_max", "observed_0_0", "infimal_nuclear"])
def test_measures_of_completions_are_not_defined_for_sensing(name):
    sensing = spec(problem={"kind": "matrix_sensing", "shape": [2, 2], "target": {"rank": 1}, "observed": 3})
    assert "completion" in (measures.undefined(name, sensing) or "")


def test_error_needs_the_whole_truth():
    assert "ground truth" in (measures.undefined("error", two_by_two()) or "")
    whole = [[0, 0, 2.0], [0, 1, 1.0], [1, 0, 1.0], [1, 1, 0.0]]
    given_whole = two_by_two(problem={"kind": "matrix_completion", "shape": [2, 2], "entries": whole})
    assert measures.undefined("error", given_whole) is None
    assert "unobserved" in (measures.undefined("unobserved_max", given_whole) or "")


def test_every_measure_is_shown_by_a_name_that_finds_it():
    for row in measures.MEASURES:
        found = measures.find(row.shown)
        assert found is not None
        assert found[0] is row
        assert re.search(r"\[R", row.compute.__doc__ or ""), f"{row.shown} does not state its shape"


def test_unknown_names_are_refused():
    assert measures.find("nuclaer") is None
    with pytest.raises(KeyError):
        measures.is_final("nuclaer")
    for ask in (measures.undefined, measures.column_names):
        with pytest.raises(KeyError):
            ask("nuclaer", two_by_two())


def test_only_what_costs_more_than_training_waits_for_the_end():
    assert [row.shown for row in measures.MEASURES if measures.is_final(row.shown)] == ["cp_rank"]
