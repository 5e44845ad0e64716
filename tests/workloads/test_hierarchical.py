"""Hierarchical factorizations: gradients, the network that they are, conservation laws, balanced starts, truths and measures."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from tests.contract.references import network
from tests.specs import spec
from tests.workloads import oracle
from tests.workloads.test_engines import advance, lanes_of
from workloads import measures
from workloads.engines.base import create
from workloads.engines.choice import chosen
from workloads.factorizations import FACTORIZATIONS
from workloads.measures.numerics.snapshot import Snapshot, evaluate
from workloads.mode_tree import ModeTree

TREES = {
    "4-2-2": ((2, 3, 2, 3), 2, (4, 3)),
    "8-2-3": ((2,) * 8, 2, (3, 2, 4)),
    "9-3-2": ((2,) * 9, 3, (3, 2)),
    "3-3-1": ((3, 2, 4), 3, (5,)),
}
"""Shape, arity and widths of trees of so many modes, arity and levels."""
PATTERNS = ["adjacent", "half"]


def made(name, pattern="adjacent", lanes=2, scale=1.0):
    """A factorization, its shape and random factors [R, ...]."""
    shape, arity, widths = TREES[name]
    factorization = FACTORIZATIONS["hierarchical"](arity=arity, widths=widths, pattern=pattern)
    rng = torch.Generator().manual_seed(3)
    factors = [scale * torch.randn(lanes, *s, dtype=torch.float64, generator=rng) for s in factorization.shapes(shape).values()]
    return factorization, shape, factors


def gradients(factorization, factors, outer):
    """The program's product [R, D] and gradients for dL/dW [R, D]."""
    found = [torch.full_like(f, torch.nan) for f in factors]
    program = factorization.program(factors, found, outer)
    program.forward()
    program.backward()
    return program.product.clone(), found


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", TREES)
def test_gradients_are_finite_differences(name, pattern):
    factorization, shape, factors = made(name, pattern)
    rng = np.random.default_rng(0)
    outer = torch.from_numpy(rng.standard_normal((2, math.prod(shape))))
    product, found = gradients(factorization, factors, outer)
    np.testing.assert_allclose(product, factorization.products(factors).flatten(1), rtol=1e-12, atol=1e-12)
    step = 1e-5
    for factor, slope in zip(factors, found, strict=True):
        way = torch.from_numpy(rng.standard_normal(factor.shape))
        ends = []
        for sign in (1, -1):
            factor += sign * step * way
            ends.append((factorization.products(factors).flatten(1) * outer).sum(1))
            factor -= sign * step * way
        # The tensor is linear in one factor alone, so that nothing but rounding is left.
        np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), (slope * way).flatten(1).sum(1), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("arity", "order", "leaves"), [(2, 4, (0, 2, 1, 3)), (2, 8, (0, 4, 2, 6, 1, 5, 3, 7)), (3, 9, (0, 3, 6, 1, 4, 7, 2, 5, 8))]
)
def test_modes_that_are_joined_lie_half_or_a_third_apart(arity, order, leaves):
    tree = ModeTree.joining(order, arity, "half")
    assert tree.leaves == leaves
    assert all(b - a == order // arity for node in tree.levels[1] for a, b in itertools.pairwise(node))
    assert ModeTree.joining(order, arity, "adjacent").leaves == tuple(range(order))


@pytest.mark.parametrize("name", TREES)
def test_joining_halves_is_joining_neighbours_of_other_modes(name):
    factorization, shape, factors = made(name, "half", lanes=1)
    leaves = ModeTree.joining(len(shape), factorization.arity, "half").leaves
    plain = [f[0] for f in factors]
    want = network(*(plain[mode] for mode in leaves), *plain[len(shape) :])
    np.testing.assert_allclose(factorization.products(factors)[0], want.permute(*np.argsort(leaves)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("4-2-2", "tensor_completion"), ("4-2-2", "tensor_sensing"), ("8-2-3", "tensor_completion"), ("3-3-1", "tensor_completion")],
)
def test_lanes_equal_the_oracle_over_a_thousand_steps(name, problem):
    shape, arity, widths = TREES[name]
    specs = [
        spec(
            problem={"kind": problem, "shape": list(shape), "target": {"rank": 1, "frobenius": 2.0}, "observed": 14 + n, "seed": n},
            factorization={"kind": "hierarchical", "arity": arity, "widths": list(widths)},
            init={"kind": "gaussian", "scale": 0.6},
            optimizer={"kind": "gd", "lr": (0.004 if problem == "tensor_completion" else 0.0004) * (1 + n)},
            loss=("half_sse", "mse")[n],
            seed=n,
        )
        for n in range(2)
    ]
    trained = {engine: advance(create(engine), lanes_of(specs), 1000) for engine in ("batched", "fused")}
    for lane, one in enumerate(specs):
        truth = oracle.train(one, 1000)
        assert truth.losses[-1] < truth.losses[0]
        for engine, lanes in trained.items():
            assert lanes.loss[lane] == pytest.approx(truth.losses[-1], rel=1e-8, abs=1e-20), engine
            product = one.factorization.products(lanes.params)[lane]
            np.testing.assert_allclose(product, truth.product, rtol=1e-8, atol=1e-10, err_msg=engine)


def test_the_kernel_joins_halves_as_well():
    one = spec(
        problem={"kind": "tensor_completion", "shape": [2, 3, 2, 3], "target": {"rank": 1}, "observed": 20},
        factorization={"kind": "hierarchical", "widths": [4, 3], "pattern": "half"},
        init={"kind": "gaussian", "scale": 0.6},
        optimizer={"kind": "gd", "lr": 0.01},
    )
    by = [advance(create(engine), lanes_of([one]), 300) for engine in ("autograd", "fused")]
    assert by[0].loss[0] < 0.2
    for wanted, got in zip(by[0].params, by[1].params, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-10)


def test_trees_are_trained_by_a_kernel_and_the_largest_by_matrix_products():
    def tree(width):
        one = spec(
            problem={"kind": "tensor_completion", "shape": [8] * 4, "target": {"rank": 1}, "observed": 0.5},
            factorization={"kind": "hierarchical", "widths": width},
        )
        return chosen("auto", [one] * 64)

    assert [tree(width) for width in (4, 32, 512, 2048)] == ["fused", "fused", "fused", "batched"]


def test_one_level_is_a_sum_of_components_with_weights():
    factorization, _, factors = made("3-3-1")
    *vectors, weights = factors
    cp = FACTORIZATIONS["cp"](components=5)
    np.testing.assert_allclose(
        factorization.products(factors), cp.products([vectors[0] * weights.mT, *vectors[1:]]), rtol=1e-12, atol=1e-14
    )
    norms = factorization.node_component_norms(factors, (0, 1, 2))
    np.testing.assert_allclose(norms, cp.component_norms([vectors[0] * weights.mT, *vectors[1:]]), rtol=1e-12)


# ------------------------------------------------------------------------------------------------------------- components


def vectors_of(tree, factors, level, node, r):
    """The vectors of the r-th component of a node: views of one run's factors."""
    return [*(f[:, r] for f in tree.children(factors, level, node)), tree.own(factors, level, node)[r]]


def components(tree):
    """Level, number and modes of every node that has components."""
    return [(level, n, tuple(sorted(modes))) for level, nodes in enumerate(tree.levels) if level for n, modes in enumerate(nodes)]


def alone(factorization, tree, factors, level, node, r):
    """The tensor with one component of a node alone."""
    left = [f.clone() for f in factors]
    own = tree.own(left, level, node)
    own[torch.arange(len(own)) != r] = 0.0
    return factorization.product(*left)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", TREES)
def test_a_gradient_step_moves_all_vectors_of_a_component_alike(name, pattern):
    """arXiv 2201.11729, lemma 1: <v, dl/dv> is the same for all, so that squared norms differ by what the step size squared does alone."""
    factorization, shape, factors = made(name, pattern, lanes=1)
    outer = torch.from_numpy(np.random.default_rng(1).standard_normal((1, math.prod(shape))))
    _, slopes = gradients(factorization, factors, outer)
    tree, lr = factorization.tree(len(shape)), 1e-3
    before, slope = [f[0] for f in factors], [f[0] for f in slopes]
    after = [f - lr * g for f, g in zip(before, slope, strict=True)]
    for level, node, _ in components(tree):
        for r in range(len(tree.own(before, level, node))):
            v, g, moved = (vectors_of(tree, part, level, node, r) for part in (before, slope, after))
            inner = [float(a @ b) for a, b in zip(v, g, strict=True)]
            np.testing.assert_allclose(inner, inner[0], rtol=1e-11, atol=1e-11)
            squared, were, steps = (np.array([float(a @ a) for a in part]) for part in (moved, v, g))
            change = (squared - squared[0]) - (were - were[0])
            np.testing.assert_allclose(change, lr**2 * (steps - steps[0]), rtol=0, atol=1e-13 * were.max())
            part = alone(factorization, tree, before, level, node, r)
            assert float((part.reshape(-1) * outer[0]).sum()) == pytest.approx(inner[0], rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("name", TREES)
def test_balanced_components_grow_by_a_power_of_their_size(name):
    """arXiv 2201.11729, theorem 1: d sigma/dt = K sigma^(2 - 2/K) <-dl/dW, C> with K vectors a component."""
    factorization, shape, factors = made(name, lanes=1)
    tree = factorization.tree(len(shape))
    balanced = [torch.from_numpy(f) for f in factorization.balanced([f[0].numpy() for f in factors])]
    outer = torch.from_numpy(np.random.default_rng(1).standard_normal((1, math.prod(shape))))
    _, slopes = gradients(factorization, [f.unsqueeze(0) for f in balanced], outer)
    slope = [s[0] for s in slopes]
    for level, node, _ in components(tree):
        for r in range(len(tree.own(balanced, level, node))):
            v, g = (vectors_of(tree, part, level, node, r) for part in (balanced, slope))
            size, count = math.prod(float(a.norm()) for a in v), len(v)
            speed = sum(-float(a @ b) / float(a @ a) for a, b in zip(v, g, strict=True)) * size
            unit = alone(factorization, tree, balanced, level, node, r) / size
            want = count * size ** (2 - 2 / count) * -float((unit.reshape(-1) * outer[0]).sum())
            assert count == factorization.arity + 1
            assert speed == pytest.approx(want, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", TREES)
def test_balanced_starts_keep_the_tensor(name, pattern):
    factorization, _, factors = made(name, pattern, lanes=1)
    plain = [f[0].numpy() for f in factors]
    given = [f.copy() for f in plain]
    balanced = [torch.from_numpy(f) for f in factorization.balanced(plain)]
    want = factorization.product(*(f[0] for f in factors))
    np.testing.assert_allclose(factorization.product(*balanced), want, rtol=0, atol=1e-11 * float(want.abs().max()))
    assert factorization.unbalancedness([f.unsqueeze(0) for f in balanced]).item() < 1e-12
    assert factorization.unbalancedness(factors).item() > 0.5
    assert all(np.array_equal(a, b) for a, b in zip(plain, given, strict=True)), "what was given has changed"


def test_a_balanced_component_without_one_of_its_vectors_is_gone():
    factorization, _, factors = made("4-2-2", lanes=1)
    plain = [f[0].numpy() for f in factors]
    plain[0][:, 1] = 0.0
    balanced = factorization.balanced(plain)
    assert not balanced[1][:, 1].any()
    assert all(np.isfinite(f).all() for f in balanced)
    want, got = (factorization.product(*map(torch.from_numpy, part)) for part in (plain, balanced))
    np.testing.assert_allclose(got, want, atol=1e-12)


# --------------------------------------------------------------------------------------------------------- what is measured


def snapshot(one, factors):
    return Snapshot(one.factorization, factors, torch.zeros(len(factors[0])), [one.problem.realize({})] * len(factors[0]), 2e-16)


def trial(shape=(2, 3, 2, 3), **keys):
    return spec(
        problem={"kind": "tensor_completion", "shape": list(shape), "target": {"rank": 1}, "observed": 5},
        factorization={"kind": "hierarchical", "widths": [4, 3], **keys},
    )


@pytest.mark.parametrize("pattern", PATTERNS)
def test_component_norms_are_products_of_norms_at_each_node(pattern):
    factorization, _, factors = made("4-2-2", pattern)
    one, tree = trial(pattern=pattern), factorization.tree(4)
    for level, node, modes in components(tree):
        name = "components_at_" + "_".join(map(str, modes))
        got = evaluate([name], snapshot(one, factors))
        count = 4 if level == 1 else 3
        assert [*measures.column_names(name, one)] == [f"component_{k}_at_{'_'.join(map(str, modes))}" for k in range(count)]
        for lane in range(2):
            run = [f[lane] for f in factors]
            norms = [math.prod(float(v.norm()) for v in vectors_of(tree, run, level, node, r)) for r in range(count)]
            np.testing.assert_allclose(got[lane], sorted(norms, reverse=True), rtol=1e-12)


def test_ranks_of_a_tree_are_at_most_its_widths():
    """Of the matrix with a node's modes as rows: at most the width to its parent and that of its components."""
    one = trial((3, 3, 3, 3), widths=[2, 9])
    rng = torch.Generator().manual_seed(0)
    factors = [torch.randn(2, *s, dtype=torch.float64, generator=rng) for s in one.factor_shapes.values()]
    names = ["rank_at_0_1", "rank_at_2_3", "rank_at_0_2", "rank_at_3"]
    assert evaluate(names, snapshot(one, factors)).tolist() == [[2, 2, 4, 2]] * 2


def test_unbalancedness_of_components_is_a_difference_of_squared_norms():
    factorization, _, factors = made("4-2-2")
    tree = factorization.tree(4)
    got = evaluate(["unbalancedness"], snapshot(trial(), factors))
    for lane in range(2):
        run = [f[lane] for f in factors]
        squares = [
            [float(v @ v) for v in vectors_of(tree, run, level, node, r)]
            for level, node, _ in components(tree)
            for r in range(len(tree.own(run, level, node)))
        ]
        assert got[lane, 0] == pytest.approx(max(abs(a - b) for s in squares for a in s for b in s), rel=1e-12)


def test_unbalancedness_of_matrices_and_of_cp():
    deep, cp, flat = spec(factorization__depth=3), spec(factorization={"kind": "cp", "components": 3}), spec(factorization__depth=1)
    rng = np.random.default_rng(0)
    drawn = [[rng.standard_normal((1, *s)) for s in one.factor_shapes.values()] for one in (deep, cp, flat)]
    got = [
        evaluate(["unbalancedness"], snapshot(one, [torch.from_numpy(f) for f in factors]))[0, 0]
        for one, factors in zip((deep, cp, flat), drawn, strict=True)
    ]
    w1, w2, w3 = (f[0] for f in drawn[0])
    assert got[0] == pytest.approx(max(np.linalg.norm(b.T @ b - a @ a.T) for a, b in ((w1, w2), (w2, w3))), rel=1e-12)
    squares = [np.square(f[0]).sum(0) for f in drawn[1]]
    assert got[1] == pytest.approx(np.abs(squares[0] - squares[1]).max(), rel=1e-12)
    assert got[2] == 0.0


@pytest.mark.parametrize("kind", ["deep_matrix", "cp", "hierarchical"])
def test_balanced_starts_have_no_unbalancedness(kind):
    keys = {"deep_matrix": {"depth": 3}, "cp": {"components": 5}, "hierarchical": {"widths": 5}}[kind]
    one = spec(factorization={"kind": kind, **keys}, init={"kind": "gaussian", "scale": 0.5, "balanced": True})
    start = [torch.from_numpy(f).unsqueeze(0) for f in one.initial_factors({})]
    assert evaluate(["unbalancedness"], snapshot(one, start))[0, 0] < 1e-12


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("components_at_0_2", "components_at_0_1, components_at_2_3, components_at_0_1_2_3"),
        ("singular_values_at_1_0", "rising order"),
        ("effective_rank_at_0_1_2_3", "not all"),
        ("rank_at_4", "modes 0 to 3"),
    ],
)
def test_says_which_modes_there_are(name, reason):
    assert reason in (measures.undefined(name, trial()) or "")


def test_what_has_no_tree_or_balance_says_so():
    tucker = spec(
        problem={"kind": "tensor_completion", "shape": [3, 3, 3], "target": {"rank": 1}, "observed": 5},
        factorization={"kind": "tucker", "ranks": [2, 2, 2]},
    )
    assert "hierarchical" in (measures.undefined("components_at_0_1", tucker) or "")
    assert "deep_matrix" in (measures.undefined("unbalancedness", tucker) or "")
    assert "tensors" in (measures.undefined("rank_at_0", spec()) or "")


# ------------------------------------------------------------------------------------------------------ truths and circuits


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_truth_has_the_ranks_of_its_tree(pattern):
    target = {"kind": "hierarchical", "widths": [3, 2], "frobenius": 5.0, "pattern": pattern}
    problem = spec(
        problem={"kind": "tensor_completion", "shape": [4, 4, 4, 4], "target": target, "observed": 9}, factorization={"kind": "cp"}
    ).problem
    truth = problem.realize({}).truth.reshape(4, 4, 4, 4)
    assert np.linalg.norm(truth) == pytest.approx(5.0, rel=1e-12)
    for rows, across, rank in (((0, 1), (2, 3), "adjacent"), ((0, 2), (1, 3), "half")):
        found = np.linalg.matrix_rank(truth.transpose(*rows, *across).reshape(16, 16))
        assert found == 2 if pattern == rank else found > 2
    assert np.linalg.matrix_rank(truth.reshape(4, 64)) == 3


def test_a_truth_is_the_same_with_its_defaults_written():
    def problem(**target):
        keys = {
            "kind": "tensor_completion",
            "shape": [3, 3, 3, 3],
            "target": {"kind": "hierarchical", "widths": [2, 2], **target},
            "observed": 9,
        }
        return spec(problem=keys, factorization={"kind": "cp"})

    assert problem().canonical() == problem(arity=2, pattern="adjacent", frobenius=1.0).canonical()
    assert problem().canonical() != problem(pattern="half").canonical()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"kind": "hierarchical"}, "problem.target.widths: is missing"),
        ({"kind": "hierarchical", "widths": [2]}, "problem.target.widths: needs one for each of 2 levels, not 1"),
        (
            {"kind": "hierarchical", "widths": [2, 2], "arity": 3},
            "problem.target.kind: hierarchical with arity 3 needs an order that is a power of it",
        ),
        ({"kind": "hierarchical", "widths": [2, 2], "rank": 1}, "problem.target.rank: has no effect with kind: hierarchical"),
        ({"rank": 1, "widths": [2, 2]}, "problem.target.widths: has no effect without kind: hierarchical"),
        ({"frobenius": 2.0}, "problem.target.rank: is missing"),
    ],
)
def test_keys_of_a_truth_belong_to_its_kind(target, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        spec(problem={"kind": "tensor_completion", "shape": [3, 3, 3, 3], "target": target, "observed": 9}, factorization={"kind": "cp"})


@pytest.mark.parametrize(
    ("shape", "keys", "message"),
    [
        ([3, 3, 3], {"widths": 2}, "factorization.kind: hierarchical with arity 2 needs an order that is a power of it, not shape"),
        ([3, 3, 3, 3], {"arity": 3}, "factorization.kind: hierarchical with arity 3"),
        ([3, 3, 3, 3], {"widths": [2, 2, 2]}, "factorization.widths: needs one for each of 2 levels, not 3"),
    ],
)
def test_refuses_what_is_no_tree(shape, keys, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        spec(
            problem={"kind": "tensor_completion", "shape": shape, "target": {"rank": 1}, "observed": 9},
            factorization={"kind": "hierarchical", **keys},
        )


def test_widths_are_the_product_of_all_dimensions_but_the_largest_unless_given():
    one = spec(
        problem={"kind": "tensor_completion", "shape": [2, 3, 5, 2], "target": {"rank": 1}, "observed": 9},
        factorization={"kind": "hierarchical"},
    )
    assert one.flat()["factorization.widths"] == [12, 12]
    assert [*one.factor_shapes] == ["W0_1", "W0_2", "W0_3", "W0_4", "W1_1", "W1_2", "w"]
    assert one.canonical() == one.model_copy(update={"factorization": FACTORIZATIONS["hierarchical"](widths=12)}).canonical()


def circuit(tree, factors, inputs):
    """A convolutional arithmetic circuit [N] on inputs [N, d], one a location: 1x1 filters, product pooling, a linear output."""
    levels = [[x @ factors[mode] for mode, x in enumerate(inputs)]]
    levels[0] = [levels[0][mode] for mode in tree.leaves]
    for level in range(1, len(tree.levels)):
        below = levels[-1]
        pooled = [math.prod(below[n * tree.arity : (n + 1) * tree.arity]) for n in range(len(tree.levels[level]))]
        levels.append([rows @ tree.own(factors, level, n) for n, rows in enumerate(pooled)])
    return levels[-1][0][:, 0]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("shape", "arity", "widths"), [((3, 2, 3, 4), 2, [4, 3]), ((3, 4, 2), 3, [5])])
def test_measuring_by_rank_one_is_evaluating_a_circuit(shape, arity, widths, pattern):
    problem = {"kind": "tensor_sensing", "shape": list(shape), "target": {"rank": 1}, "observed": 40, "measurements": "rank_one"}
    one = spec(problem=problem, factorization={"kind": "hierarchical", "arity": arity, "widths": widths, "pattern": pattern})
    measured = one.problem.realize({}).measurements.reshape(40, *shape)
    # The lines through the largest entry of an outer product are its vectors, but for what that entry is.
    where = [np.unravel_index(np.abs(m).argmax(), shape) for m in measured]
    inputs = [
        np.stack([m[(*at[:mode], slice(None), *at[mode + 1 :])] / (m[at] if mode else 1.0) for m, at in zip(measured, where, strict=True)])
        for mode in range(len(shape))
    ]
    factors = one.initial_factors({})
    network_says = circuit(one.factorization.tree(len(shape)), factors, inputs)
    whole = one.factorization.product(*map(torch.from_numpy, factors)).numpy()
    np.testing.assert_allclose(network_says, measured.reshape(40, -1) @ whole.reshape(-1), rtol=1e-9, atol=1e-13)
