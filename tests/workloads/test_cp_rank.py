"""CP ranks found by alternating least squares, against tensors of known rank and another package's decompositions."""

from __future__ import annotations

import numpy as np
import pytest
import tensorly
import torch
from tensorly.decomposition import parafac

import workloads.measures.numerics.cp_rank as cp_rank_module
from tests.specs import OPTIMIZERS, spec, trials
from workloads.engines.base import create
from workloads.measures.numerics.cp_rank import cp_rank
from workloads.training.loop import train
from workloads.training.recording import Recording
from workloads.training.results import Finished


def of_rank(shape, rank, seed):
    """A sum of ``rank`` outer products of random unit vectors: no component is so small that the tensor nearly does without."""
    rng = np.random.default_rng(seed)
    out = np.ones((1, rank))
    for n in shape:
        factor = rng.standard_normal((n, rank))
        out = (out[:, None, :] * (factor / np.linalg.norm(factor, axis=0))).reshape(-1, rank)
    return (out.sum(1) / np.linalg.norm(out.sum(1))).reshape(shape)


@pytest.mark.parametrize("shape", [(8, 8, 8), (8, 8, 8, 8), (5, 9, 6)])
def test_random_tensors_of_known_rank(shape):
    ranks = range(1, min(8, min(shape)) + 1)
    tensors = np.stack([of_rank(shape, rank, 10 * rank + n) for rank in ranks for n in range(3)])
    found = cp_rank(torch.from_numpy(tensors)).reshape(-1, 3).tolist()
    assert found == [[float(rank)] * 3 for rank in ranks]


def test_zero_not_finite_and_full():
    shape = (3, 3, 3)
    diagonal = torch.zeros(shape, dtype=torch.float64)
    for n in range(3):
        diagonal[n, n, n] = 1.0
    broken = diagonal.clone()
    broken[0, 1, 2] = float("nan")
    tiny = diagonal * 1e-4
    found = cp_rank(torch.stack([torch.zeros_like(diagonal), broken, diagonal, tiny]))
    assert found[[0, 2, 3]].tolist() == [0.0, 3.0, 0.0]
    assert found[1].isnan()


def test_a_tensor_has_the_same_rank_whatever_its_neighbours():
    tensors = torch.from_numpy(np.stack([of_rank((6, 6, 6), rank, rank) for rank in (2, 7, 4, 9)]))
    together = cp_rank(tensors)
    assert together.tolist() == [float(cp_rank(t.unsqueeze(0))) for t in tensors]


def test_another_package_needs_as_many_components():
    """Tensors that are zero but for some entries of a rank-1 tensor, whose rank is not known beforehand."""
    rng = np.random.default_rng(3)
    full = of_rank((6, 6, 6), 1, 0)
    tensors = np.stack([np.where(rng.random(full.shape) < share, full, 0.0) for share in (0.15, 0.5, 0.95)])
    for tensor, rank in zip(tensors, cp_rank(torch.from_numpy(tensors)).int().tolist(), strict=True):

        def best(count, tensor=tensor):
            errors = []
            for seed in range(3):
                parts = parafac(tensor, count, init="random", random_state=seed, n_iter_max=600, tol=1e-9)
                errors.append(np.square(tensorly.cp_to_tensor(parts) - tensor).mean())
            return min(errors)

        assert best(rank) < 1.2e-6, "what was found suffices"
        assert best(rank - 2) > 1e-6, "two fewer do not, not even for the other package"


def test_it_is_a_measure_of_the_last_row_only():
    problem = {"kind": "tensor_completion", "shape": [4, 4, 4], "target": {"rank": 2}, "observed": 64}
    one = spec(problem=problem, factorization={"kind": "linear"}, init=None, optimizer=OPTIMIZERS["gd"] | {"lr": 0.5}, stop={"steps": 200})
    events = train(trials([one]), Recording(("cp_rank", "frobenius", "multilinear_rank"), points=5), create("batched"))
    (result,) = (r for e in events if isinstance(e, Finished) for r in e.results)
    column = result.trace.values[:, result.trace.columns.index("cp_rank")]
    assert np.isnan(column[:-1]).all()
    truth = one.problem.realize({}).truth.reshape(4, 4, 4)
    assert column[-1] == float(cp_rank(torch.from_numpy(truth).unsqueeze(0))) == 2
    assert [result.trace.final()[f"multilinear_rank_{n}"] for n in range(3)] == [np.linalg.matrix_rank(truth.reshape(4, 16))] * 3
    assert result.trace.final()["frobenius"] == pytest.approx(1.0, rel=1e-6)


def test_equal_tensors_are_searched_for_once(monkeypatch):
    rng = np.random.default_rng(5)
    some = np.stack([np.einsum("ar,br,cr->abc", *(rng.standard_normal((4, r)) for _ in range(3))) for r in (1, 2, 3)])
    some = torch.from_numpy(some / np.linalg.norm(some.reshape(3, -1), axis=1)[:, None, None, None])
    sizes = []
    search = cp_rank_module._search
    monkeypatch.setattr(cp_rank_module, "_search", lambda tensors, *rest: (sizes.append(len(tensors)), search(tensors, *rest))[1])
    order = torch.tensor([2, 0, 1, 1, 2, 0, 0])
    assert cp_rank(some[order]).tolist() == [3, 1, 2, 2, 3, 1, 1]
    assert sizes == [3]


@pytest.mark.parametrize("weight", [0.3, 0.16, 0.05, 0.01])
def test_small_components_beside_large_ones_are_found(weight):
    rng = np.random.default_rng(7)
    tensors = []
    for _ in range(6):
        a, b, c = (np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(3))
        tensors.append(np.einsum("r,ar,br,cr->abc", [1, 1, weight], a, b, c))
    assert cp_rank(torch.from_numpy(np.stack(tensors)), 1e-9).tolist() == [3] * 6


def test_huge_entries_are_no_obstacle_to_their_neighbours():
    rng = np.random.default_rng(3)
    one = np.einsum("a,b,c->abc", *(rng.standard_normal(3) for _ in range(3)))
    huge = np.where(rng.random((3, 3, 3)) < 0.5, 1e200, -1e308)
    assert cp_rank(torch.from_numpy(np.stack([one, huge])))[0] == 1
