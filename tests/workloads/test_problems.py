"""Drawn problems: ranks, norms, nested observations."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest

from orchestrator.errors import GridError
from orchestrator.grid import parse_grid
from tests.specs import spec, two_by_two


def problem(**fields):
    base = {"kind": "matrix_completion", "shape": [6, 5], "target": {"rank": 2, "frobenius": 3.0}, "observed": 10}
    keys = {key: value for key, value in {**base, **fields}.items() if value is not None}
    return spec(problem=keys, factorization={"kind": "linear"}, init=None).problem


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_truth_has_the_rank_and_norm_asked_for(rank):
    truth = problem(target={"rank": rank, "frobenius": 3.0}).realize({}).truth
    assert np.linalg.matrix_rank(truth.reshape(6, 5)) == rank
    assert np.linalg.norm(truth) == pytest.approx(3.0, rel=1e-12)


def test_tensor_truth_has_the_multilinear_rank_of_its_components():
    p = spec(
        problem={"kind": "tensor_completion", "shape": [4, 5, 6], "target": {"rank": 3}, "observed": 50}, factorization={"kind": "cp"}
    ).problem
    truth = p.realize({}).truth.reshape(4, 5, 6)
    assert np.linalg.norm(truth) == pytest.approx(1.0)
    for mode in range(3):
        assert np.linalg.matrix_rank(np.moveaxis(truth, mode, 0).reshape(truth.shape[mode], -1)) == 3


def test_a_larger_observation_set_contains_the_smaller_and_the_truth_stays():
    small, large, half = (problem(observed=n).realize({}) for n in (7, 19, 0.5))
    assert (small.mask.sum(), large.mask.sum(), half.mask.sum()) == (7, 19, 15)
    assert large.mask[small.mask].all()
    np.testing.assert_array_equal(small.truth, large.truth)
    np.testing.assert_array_equal(small.target[small.mask], small.truth[small.mask])
    assert not small.target[~small.mask].any()


def test_more_measurements_begin_with_the_fewer():
    few, many = (problem(kind="matrix_sensing", observed=n).realize({}) for n in (4, 60))
    np.testing.assert_array_equal(many.measurements[:4], few.measurements)
    np.testing.assert_allclose(many.values, many.measurements @ many.truth, rtol=1e-13)
    assert many.measurements.std() == pytest.approx(1.0, rel=0.1)


def test_measurements_of_rank_one_have_norm_one_on_average():
    few, many = (problem(kind="matrix_sensing", observed=n, measurements="rank_one").realize({}) for n in (4, 4000))
    np.testing.assert_array_equal(many.measurements[:4], few.measurements)
    assert all(np.linalg.matrix_rank(each.reshape(6, 5)) == 1 for each in few.measurements)
    # The squared norm is a product of two chi-squared numbers over their degrees of freedom: its deviation is 0.87.
    assert np.square(many.measurements).sum(1).mean() == pytest.approx(1.0, abs=0.07)


def test_measurements_of_a_file_are_not_drawn():
    content = io.BytesIO()
    np.savez(content, target=np.ones((6, 5)), measurements=np.ones((3, 6, 5)))
    made = problem(kind="matrix_sensing", target=None, observed=None, file="a.npz", measurements="rank_one").with_data(
        content.getvalue(), "x"
    )
    assert list(made.file_conflicts()) == [("problem.measurements", "has no effect: the data file has the measurements")]


def test_another_seed_is_another_problem():
    a, b = problem().realize({}), problem(seed=1).realize({})
    assert not np.allclose(a.truth, b.truth)
    assert (a.mask != b.mask).any()


def test_given_entries():
    data = two_by_two().problem.realize({})
    assert data.truth is None
    assert data.mask.tolist() == [False, True, True, True]
    assert data.target.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_noise_is_normal_and_leaves_the_truth_alone():
    plain, noisy = (problem(shape=[60, 50], observed=0.9, **noise).realize({}) for noise in ({}, {"noise": {"std": 0.3}}))
    np.testing.assert_array_equal(plain.truth, noisy.truth)
    np.testing.assert_array_equal(plain.mask, noisy.mask)
    noise = (noisy.target - plain.target)[plain.mask]
    assert noise.std() == pytest.approx(0.3, rel=0.05)
    assert abs(noise.mean()) < 0.02
    assert not noisy.target[~noisy.mask].any()


def test_an_entry_has_the_same_noise_however_many_others_are_observed():
    small, large = (problem(observed=n, noise={"std": 1.0}).realize({}) for n in (7, 19))
    np.testing.assert_array_equal(small.target[small.mask], large.target[small.mask])
    few, many = (problem(kind="matrix_sensing", observed=n, noise={"std": 1.0}).realize({}) for n in (4, 60))
    np.testing.assert_array_equal(few.values, many.values[:4])
    assert np.std(many.values - many.measurements @ many.truth) == pytest.approx(1.0, rel=0.3)


def test_noise_follows_the_seed_unless_it_has_its_own():
    def noise(by, **own):
        return problem(seed=by, noise={"std": 1.0, **own}).noisy(np.zeros(30), np.arange(30))

    assert not np.allclose(noise(0), noise(1))
    np.testing.assert_array_equal(noise(0, seed=5), noise(1, seed=5))
    np.testing.assert_array_equal(noise(5), noise(0, seed=5))
    entries = {"target": None, "observed": None, "entries": [[0, 1, 1.0], [1, 0, 1.0]], "noise": {"std": 0.1}}
    assert problem(**entries).draws
    assert not problem(**{**entries, "noise": {"std": 0.1, "seed": 3}}).draws


def test_entries_with_noise_that_are_all_there_are_have_a_truth_without_it():
    entries = [[i, j, float(i + j)] for i in range(2) for j in range(2)]
    data = problem(shape=[2, 2], target=None, observed=None, entries=entries, noise={"std": 0.5}).realize({})
    assert data.truth.tolist() == [0.0, 1.0, 1.0, 2.0]
    assert not np.allclose(data.target, data.truth)


@pytest.mark.parametrize(("held_out", "count"), [(0.2, 6), (5, 5)])
def test_held_out_entries_are_the_same_however_many_are_observed(held_out, count):
    small, large = (problem(observed=n, held_out=held_out) for n in (7, 20))
    assert (small.held_out_entries(), large.held_out_entries()) == (count, count)
    few, many = small.realize({}), large.realize({})
    np.testing.assert_array_equal(few.held_out[0], many.held_out[0])
    np.testing.assert_array_equal(few.held_out[1], few.truth[few.held_out[0]])
    assert not many.mask[many.held_out[0]].any()
    assert len(few.held_out[0]) == count


def ratings(rows=20, **fields):
    """A 6x5 problem from a file of ratings, and the file by its digest."""
    places = np.random.default_rng(0).permutation(30)[:rows]
    content = "".join(f"{n // 5},{n % 5},{n / 10}\n" for n in places).encode()
    digest = hashlib.sha256(content).hexdigest()
    made = problem(target=None, file="ratings.csv", **{"observed": None, **fields}).with_data(content, digest)
    return made, {digest: content}, set(places.tolist())


def test_of_a_file_of_ratings_a_share_is_observed_and_the_rest_held_out():
    made, files, rows = ratings(observed=0.8)
    data = made.realize(files)
    seen, held = set(np.flatnonzero(data.mask).tolist()), set(data.held_out[0].tolist())
    assert (made.observations(), made.held_out_entries()) == (16, 4) == (len(seen), len(held))
    assert seen | held == rows
    np.testing.assert_allclose(data.target[data.mask], np.flatnonzero(data.mask) / 10)
    np.testing.assert_allclose(data.held_out[1], data.held_out[0] / 10)
    assert made.draws
    assert data.truth is None
    other, _, _ = ratings(observed=0.8, seed=1)
    assert (other.realize(files).mask != data.mask).any()


def test_of_a_file_of_ratings_some_are_held_out_and_the_rest_observed():
    made, files, rows = ratings(held_out=5)
    data = made.realize(files)
    assert (made.observations(), made.held_out_entries(), len(rows)) == (15, 5, 20)
    assert not data.mask[data.held_out[0]].any()
    whole, files, _ = ratings()
    assert (whole.observations(), whole.held_out_entries(), whole.draws) == (20, 0, False)
    assert whole.realize(files).held_out is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"observed": 25}, "problem.observed: is 25, but the file lists only 20 entries"),
        ({"observed": 18, "held_out": 3}, "problem.held_out: is 3, but of 20 entries that are known 18 are observed"),
        ({"held_out": 20}, "problem.held_out: is 20, which leaves nothing to train on of 20 entries that are known"),
        ({"held_out": 60}, "problem.held_out: is 60, which leaves nothing to train on"),
        ({"seed": 3}, "problem.seed: has no effect: the data file says what is observed"),
    ],
)
def test_what_a_file_of_ratings_cannot_give(tmp_path, fields, message):
    _, files, _ = ratings()
    (tmp_path / "ratings.csv").write_bytes(*files.values())
    text = json.dumps({
        "name": "g", "fixed": {
            "problem": {"kind": "matrix_completion", "shape": [6, 5], "file": "ratings.csv", **fields},
            "factorization": {"kind": "deep_matrix", "depth": 2}, "init": {"kind": "gaussian", "scale": 0.1},
            "optimizer": {"kind": "gd", "lr": 0.1}, "stop": {"steps": 10},
        },
    })  # fmt: skip
    with pytest.raises(GridError, match=message.replace("(", r"\(")):
        parse_grid(text, folder=tmp_path)


@pytest.mark.parametrize(
    ("target", "values"),
    [({"rank": 3, "spectrum": [4.0, 2.0, 0.5]}, [4.0, 2.0, 0.5]), ({"rank": 3, "condition": 100, "frobenius": 2.0}, None), ({"rank": 1, "spectrum": [7.0]}, [7.0])],
)  # fmt: skip
def test_a_truth_has_the_singular_values_asked_for(target, values):
    s = np.linalg.svd(problem(target=target).realize({}).truth.reshape(6, 5), compute_uv=False)
    if values is None:
        assert s[0] / s[2] == pytest.approx(100, rel=1e-10)
        assert s[0] / s[1] == pytest.approx(10, rel=1e-10)
        assert np.linalg.norm(s) == pytest.approx(2.0, rel=1e-12)
    else:
        np.testing.assert_allclose(s[: len(values)], values, rtol=1e-12)
    assert s[len(values or range(3)) :].max() < 1e-12


def test_a_tensor_of_one_component_has_its_norm():
    fields = {"kind": "tensor_completion", "shape": [4, 5, 6], "target": {"rank": 1, "spectrum": [3.0]}, "observed": 50}
    assert np.linalg.norm(problem(**fields).realize({}).truth) == pytest.approx(3.0, rel=1e-12)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"rank": 2, "spectrum": [1.0]}, "has 1 value, but rank is 2"),
        ({"rank": 2, "spectrum": [1.0, 0.5], "frobenius": 2.0}, "frobenius: has no effect beside problem.target.spectrum"),
        ({"rank": 2, "spectrum": [1.0, 0.5], "condition": 2.0}, "condition: has no effect beside problem.target.spectrum"),
        ({"rank": 1, "condition": 2.0}, "condition: has no effect with rank 1"),
    ],
)
def test_singular_values_that_contradict(target, message):
    with pytest.raises(ValueError, match=message):
        problem(target=target)


def test_problems_without_noise_are_the_trials_that_they_were():
    """What is new to the language must not change what is in stores already."""
    assert spec(
        problem={"kind": "matrix_completion", "shape": [6, 5], "target": {"rank": 2, "frobenius": 3.0}, "observed": 10}
    ).problem.canonical == ('{"kind":"matrix_completion","observed":10,"seed":0,"shape":[6,5],"target":{"frobenius":3.0,"rank":2}}')


def vector(**fields):
    """Of 12 entries, 5 measurements."""
    base = {"kind": "vector_sensing", "shape": [12], "target": {"sparsity": 3, "frobenius": 2.0}, "observed": 5}
    return problem(**{**base, **fields})


@pytest.mark.parametrize(
    ("target", "count"),
    [({}, 12), ({"sparsity": 3}, 3), ({"sparsity": 3, "condition": 1}, 3), ({"sparsity": 2, "spectrum": [0.6, 0.8]}, 2)],
)
def test_a_vector_has_the_entries_asked_for(target, count):
    truth = vector(target=target).realize({}).truth
    assert np.count_nonzero(truth) == count
    assert np.linalg.norm(truth) == pytest.approx(1.0, rel=1e-12)
    if "condition" in target:
        np.testing.assert_allclose(abs(truth[truth != 0]), 1 / np.sqrt(3))
    if "spectrum" in target:
        np.testing.assert_allclose(sorted(abs(truth[truth != 0])), [0.6, 0.8])


@pytest.mark.parametrize("size", [11, 12])
@pytest.mark.parametrize("sparsity", [1, 3, 6])
def test_a_vector_has_the_frequencies_asked_for(size, sparsity):
    truth = (
        vector(
            shape=[size],
            target={"sparsity": sparsity, "domain": "fourier", "condition": 1} if sparsity > 1 else {"sparsity": 1, "domain": "fourier"},
        )
        .realize({})
        .truth
    )
    found = abs(np.fft.rfft(truth))
    kept = found > 1e-12
    assert kept.sum() == sparsity
    np.testing.assert_allclose(found[kept], found.max())
    assert np.linalg.norm(truth) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": {"rank": 1}}, "problem.target.rank: is not for vectors: use sparsity"),
        ({"target": {"kind": "hierarchical", "widths": [2]}}, "problem.target.kind: is not for vectors"),
        ({"target": {"sparsity": 13}}, "problem.target.sparsity: is 13, but a vector of 12 entries has 12 entries"),
        ({"target": {"sparsity": 8, "domain": "fourier"}}, "is 8, but a vector of 12 entries has 7 frequencies"),
        ({"target": {"domain": "fourier"}}, "problem.target.domain: has no effect without problem.target.sparsity"),
        ({"target": {"sparsity": 2, "spectrum": [1.0]}}, "problem.target.spectrum: has 1 value, but sparsity is 2"),
        ({"shape": [3, 4]}, "problem.shape: vector_sensing is about vectors: one dimension, not 2"),
        ({"kind": "matrix_sensing", "target": {"rank": 1}}, "problem.shape: matrix_sensing is about matrices: two dimensions, not 1"),
        ({"kind": "tensor_sensing", "target": {"rank": 1}}, "problem.shape: tensor_sensing needs three dimensions or more, not 1"),
        ({"kind": "matrix_sensing", "shape": [3, 4]}, "problem.target.sparsity: is for vectors: use rank"),
        ({"observed": 0.5}, "problem.observed: counts measurements here"),
        ({"measurements": "rank_one"}, "measurements"),
        ({"kind": "regression", "held_out": 0.5}, "problem.held_out: counts examples that are drawn: a whole number"),
    ],
)
def test_what_vectors_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        vector(**fields)


def test_a_regression_has_the_same_examples_however_many_are_observed():
    small, large = (vector(kind="regression", observed=n, held_out=4, noise={"std": 1.0}).realize({}) for n in (5, 8))
    np.testing.assert_array_equal(large.measurements[:5], small.measurements)
    np.testing.assert_array_equal(large.values[:5], small.values)
    for few, many in zip(small.held_out_measurements, large.held_out_measurements, strict=True):
        np.testing.assert_array_equal(few, many)
    rows = np.concatenate([large.measurements, large.held_out_measurements[0]])
    assert len(np.unique(rows[:, 0])) == 12, "what is held out is not observed"


def test_features_are_correlated_as_asked_for():
    design = vector(kind="regression", shape=[4], target={}, observed=40_000, correlation=-0.6).realize({}).measurements
    apart = np.abs(np.subtract.outer(range(4), range(4)))
    np.testing.assert_allclose(np.cov(design.T), (-0.6) ** apart, atol=0.03)


DESIGN = np.arange(12.0).reshape(6, 2) ** 2


def design(name="d.csv", text=None, **fields):
    """A regression on the six rows of a file, and the file by its digest."""
    content = io.BytesIO()
    if name.endswith(".npz"):
        np.savez(content, design=DESIGN, target=np.array([1.0, -2.0]))
    else:
        content.write((text or "x,z,y\n" + "".join(f"{a},{b},{a - 2 * b}\n" for a, b in DESIGN)).encode())
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    made = problem(kind="regression", shape=None, target=None, file=name, **{"observed": None, **fields})
    return made.with_data(content.getvalue(), digest), {digest: content.getvalue()}


@pytest.mark.parametrize("name", ["d.csv", "d.npz"])
def test_a_regression_on_the_rows_of_a_file(name):
    whole, files = design(name)
    data = whole.realize(files)
    assert (whole.shape, whole.observations(), whole.held_out_entries(), whole.draws) == ((2,), 6, 0, False)
    np.testing.assert_array_equal(data.measurements, DESIGN)
    np.testing.assert_array_equal(data.values, DESIGN @ [1, -2])
    assert (data.truth is None) == name.endswith("csv")
    assert whole.truth_is_known == (data.truth is not None)
    part, _ = design(name, held_out=2, noise={"std": 1.0})
    fewer, _ = design(name, held_out=2, observed=0.5, noise={"std": 1.0})
    assert [(p.observations(), p.held_out_entries(), p.draws) for p in (part, fewer)] == [(4, 2, True), (3, 2, True)]
    many, few = part.realize(files), fewer.realize(files)
    np.testing.assert_array_equal(few.measurements, many.measurements[:3])
    np.testing.assert_array_equal(few.values, many.values[:3])
    rows, values = many.held_out_measurements
    np.testing.assert_array_equal(rows, few.held_out_measurements[0])
    np.testing.assert_array_equal(sorted(map(tuple, [*many.measurements, *rows])), sorted(map(tuple, DESIGN)))
    assert not np.isclose(values, rows @ [1, -2]).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"observed": 7}, "problem.observed: is 7, but the file has only 6 examples"),
        ({"observed": 5, "held_out": 2}, "problem.observed: is 5 beside held_out: 2, but the file has only 6 examples"),
        ({"held_out": 6}, "problem.held_out: is 6, which leaves nothing to train on of 6 examples in the file"),
        ({"correlation": 0.5}, "problem.correlation: has no effect: the data file has the design"),
        ({"seed": 3}, "problem.seed: has no effect: the data file says what is observed"),
        ({"shape": [3]}, "d.csv:2: needs features and a value, not 3 columns"),
        ({"text": "1,2,3\n4,5\n"}, "d.csv:2: needs features and a value, not 2 columns"),
        ({"text": "1\n"}, "d.csv: needs rows of features and a value"),
    ],
)
def test_what_a_file_of_examples_cannot_give(tmp_path, fields, message):
    given = dict(fields)
    text = given.pop("text", None) or "x,z,y\n" + "1,2,3\n" * 6
    (tmp_path / "d.csv").write_text(text)
    grid = {
        "name": "g",
        "fixed": {
            "problem": {"kind": "regression", "file": "d.csv", **given},
            "factorization": {"kind": "linear"},
            "optimizer": {"kind": "gd", "lr": 0.1},
            "stop": {"steps": 10},
        },
    }
    with pytest.raises(GridError, match=message.replace("(", r"\(")):
        parse_grid(json.dumps(grid), folder=tmp_path)
