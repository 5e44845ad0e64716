"""Every engine against the oracle, and lanes against single runs."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import torch

from tests.processes import run
from tests.specs import FUSED_OPTIMIZERS, OPTIMIZERS, spec, trials, two_by_two
from tests.specs import loss as loss_of
from tests.workloads import oracle
from workloads.engines.base import create
from workloads.engines.choice import why_not_fused
from workloads.engines.fused import FusedEngine
from workloads.engines.kernels.deep_matrix_key import DeepMatrixKey
from workloads.engines.kernels.launching import _unsaid
from workloads.engines.kernels.source import Registers
from workloads.engines.kernels.trees import entry_tree
from workloads.engines.lanes import Lanes
from workloads.training.preparing import Preparer

CPU = torch.device("cpu")
ENGINES = ["autograd", "batched", "fused"]

TENSOR = {"kind": "tensor_completion", "shape": [3, 4, 2], "target": {"rank": 2}, "observed": 15}
SHAPES = {
    "depth1": spec(factorization__depth=1),
    "depth2": spec(),
    "depth3": spec(factorization__depth=3),
    "depth4": spec(factorization__depth=4, init={"kind": "orthogonal", "scale": 0.8}),
    "wide": spec(problem={"kind": "matrix_completion", "shape": [3, 5], "target": {"rank": 2}, "observed": 0.6}, factorization__depth=3),
    "tall": spec(
        problem={"kind": "matrix_completion", "shape": [5, 2], "target": {"rank": 1}, "observed": 7},
        factorization={"kind": "deep_matrix", "depth": 3, "widths": [3, 4]},
    ),
    "two_by_two": two_by_two(),
    "sensing": spec(problem={"kind": "matrix_sensing", "shape": [3, 4], "target": {"rank": 1}, "observed": 8}, optimizer__lr=0.005),
    "cp2": spec(factorization={"kind": "cp"}),
    "cp3": spec(problem=TENSOR, factorization={"kind": "cp", "components": 5}, init__scale=0.6),
    "cp4": spec(
        problem={"kind": "tensor_completion", "shape": [2, 3, 2, 3], "target": {"rank": 1}, "observed": 20},
        factorization={"kind": "cp"},
        init__scale=0.6,
    ),
    "cp5": spec(
        problem={"kind": "tensor_completion", "shape": [2, 2, 3, 2, 2], "target": {"rank": 1}, "observed": 20},
        factorization={"kind": "cp", "components": 6},
        init__scale=0.7,
    ),
    "tree": spec(
        problem={"kind": "tensor_completion", "shape": [2, 3, 2, 3], "target": {"rank": 1}, "observed": 20},
        factorization={"kind": "hierarchical", "widths": [4, 3]},
        init__scale=0.7,
    ),
    "tensor_sensing": spec(
        problem={"kind": "tensor_sensing", "shape": [2, 3, 2], "target": {"rank": 1}, "observed": 9},
        factorization={"kind": "cp"},
        init__scale=0.6,
        optimizer__lr=0.005,
    ),
    "linear": spec(factorization={"kind": "linear"}, init=None),
}


def lanes_of(specs, files=None):
    preparer = Preparer(files or {})
    return Lanes([preparer.prepare(t) for t in trials(specs)], CPU)


def advance(engine, lanes, steps, losses=None):
    """Take every active lane ``steps`` further, however many calls that needs."""
    target = lanes.step + steps
    floor = np.full(len(lanes), -np.inf) if losses is None else losses
    for _ in range(10 * len(lanes)):
        engine.advance(lanes, target, floor, 10_000)
        if (lanes.step >= target)[lanes.active].all():
            return lanes
    raise AssertionError("the lanes do not arrive")


def skip_if_not_for(engine, one):
    if engine == "fused" and (reason := why_not_fused(one)):
        pytest.skip(reason)


def product(lanes):
    """The end-to-end products [R, ...], or of functions, which have none, all parameters [R, P]."""
    if lanes.factorization.maps:
        return torch.cat([p.flatten(1) for p in lanes.params], 1).numpy()
    return lanes.factorization.products(lanes.params).numpy()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SHAPES)
def test_equals_oracle_on_every_shape(engine, name):
    one = SHAPES[name]
    skip_if_not_for(engine, one)
    steps = 300
    truth = oracle.train(one, steps)
    lanes = advance(create(engine), lanes_of([one]), steps)
    assert lanes.loss[0] == pytest.approx(truth.losses[-1], rel=1e-8)
    np.testing.assert_allclose(product(lanes)[0], truth.product, rtol=1e-8, atol=1e-12)
    assert truth.losses[-1] < truth.losses[0]


@pytest.mark.parametrize("engine", ["batched", "fused"])
# At its minimum the error of a step of the flow is rounding, and so is the size of the next.
@pytest.mark.parametrize("kind", [kind for kind in OPTIMIZERS if kind != "gradient_flow"])
@pytest.mark.parametrize("name", ["depth3", "cp3", "sensing"])
def test_equals_oracle_with_every_optimizer_over_a_thousand_steps(engine, name, kind):
    optimizer = dict(OPTIMIZERS[kind])
    if name == "sensing":
        optimizer["lr"] /= 10
    one = spec(**{s: getattr(SHAPES[name], s).model_dump() for s in ("problem", "factorization", "init")}, optimizer=optimizer)
    skip_if_not_for(engine, one)
    truth = oracle.train(one, 1000)
    lanes = advance(create(engine), lanes_of([one]), 1000)
    assert lanes.loss[0] == pytest.approx(truth.losses[-1], rel=1e-8, abs=1e-28)
    np.testing.assert_allclose(product(lanes)[0], truth.product, rtol=1e-8, atol=1e-12)


def mixed():
    """Lanes that share a program and nothing else: learning rates, seeds, starts, losses and observation sets differ."""
    specs = [
        spec(factorization__depth=3, seed=n, optimizer__lr=0.01 * (1 + n), problem__observed=6 + n, init__scale=0.3 + 0.02 * n, loss=loss)
        for n, loss in enumerate(["half_sse", "mse", "half_sse", "mse", "half_sse", "half_sse", "mse"])
    ]
    assert len({s.lane_key for s in specs}) == 1
    return specs


@pytest.mark.parametrize("engine", ["batched", "fused"])
def test_mixed_lanes_equal_oracle(engine):
    specs = mixed()
    lanes = advance(create(engine), lanes_of(specs), 1000)
    for lane, one in enumerate(specs):
        truth = oracle.train(one, 1000)
        assert lanes.loss[lane] == pytest.approx(truth.losses[-1], rel=1e-8, abs=1e-28)
        np.testing.assert_allclose(product(lanes)[lane], truth.product, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("engine", ["batched", "fused"])
def test_mixed_sensing_lanes_equal_oracle(engine):
    problem = {"kind": "matrix_sensing", "shape": [3, 3], "target": {"rank": 1}}
    specs = [
        spec(problem={**problem, "observed": 5 + n, "seed": n}, seed=n, optimizer__lr=0.004, loss=("mse", "half_sse")[n % 2])
        for n in range(4)
    ]
    lanes = advance(create(engine), lanes_of(specs), 500)
    for lane, one in enumerate(specs):
        np.testing.assert_allclose(product(lanes)[lane], oracle.train(one, 500).product, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("order", [[6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 1, 5, 2, 4]])
def test_any_order_and_any_split_give_the_same_lanes(order):
    specs = mixed()
    whole = advance(create("batched"), lanes_of(specs), 500)
    shuffled = advance(create("batched"), lanes_of([specs[i] for i in order]), 500)
    for place, lane in enumerate(order):
        np.testing.assert_allclose(product(shuffled)[place], product(whole)[lane], rtol=1e-9)
    for part in (slice(0, 1), slice(1, 4), slice(4, 7)):
        split = advance(create("batched"), lanes_of(specs[part]), 500)
        np.testing.assert_allclose(product(split), product(whole)[part], rtol=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_diverging_lane_changes_no_other_bit(engine):
    specs = mixed()
    alone = advance(create(engine), lanes_of(specs), 300)
    wild = spec(factorization__depth=3, optimizer__lr=50.0, init__scale=2.0)
    lanes = lanes_of([*specs[:3], wild, *specs[3:]])
    rest = [0, 1, 2, 4, 5, 6, 7]
    machine = create(engine)
    target = np.full(8, 300)
    reached = np.zeros(8, dtype=bool)
    while not reached[3]:
        reached = machine.advance(lanes, target, np.full(8, -np.inf), 10_000)
    assert not np.isfinite(lanes.loss[3])
    assert lanes.step[3] < 20
    lanes.active[3] = False
    while (lanes.step[rest] < 300).any():
        machine.advance(lanes, target, np.full(8, -np.inf), 10_000)
    np.testing.assert_array_equal(product(lanes)[rest], product(alone))


@pytest.mark.parametrize("engine", ENGINES)
def test_stops_at_the_exact_step_at_which_each_lane_reaches_its_loss(engine):
    specs = [two_by_two(2, seed=n, optimizer__lr=0.02 + 0.01 * n) for n in range(5)]
    truths = [oracle.train(s, 400) for s in specs]
    goals = np.array([t.losses[150 + 20 * n] for n, t in enumerate(truths)])
    lanes, machine = lanes_of(specs), create(engine)
    waiting = np.ones(5, dtype=bool)
    while waiting.any():
        reached = machine.advance(lanes, np.full(5, 400), goals, 10_000)
        assert (lanes.loss[reached] <= goals[reached] * (1 + 1e-12)).all()
        waiting &= ~reached
        lanes.active &= ~reached
    for n, truth in enumerate(truths):
        # The goal is a loss of the oracle's, which another order of additions may miss by a bit.
        first = int(np.argmax(truth.losses <= goals[n] * (1 + 1e-12)))
        assert abs(int(lanes.step[n]) - first) <= 1
        assert lanes.loss[n] == pytest.approx(truth.losses[lanes.step[n]], rel=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_in_many_short_calls_gives_the_same_bits_as_in_one(engine):
    specs = mixed()
    one = advance(create(engine), lanes_of(specs), 200)
    lanes, machine = lanes_of(specs), create(engine)
    for steps in (1, 2, 3, 64, 65, 30, 35):
        advance(machine, lanes, steps)
    np.testing.assert_array_equal(product(lanes), product(one))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_limit_ends_the_call(engine):
    lanes = lanes_of(mixed())
    reached = create(engine).advance(lanes, np.full(7, 10**9), np.full(7, -np.inf), 50)
    assert not reached.any()
    assert (lanes.step == 50).all()


@pytest.mark.parametrize(
    ("engine", "optimizer"), [("batched", "adam"), ("fused", "adam"), ("fused", "momentum"), ("fused", "group_rmsprop")]
)
def test_keeping_and_adding_lanes_carries_optimizer_state(engine, optimizer):
    specs = [spec(optimizer=OPTIMIZERS[optimizer], seed=n) for n in range(4)]
    machine = create(engine)
    lanes = advance(machine, lanes_of(specs[:3]), 50)
    lanes.select(np.array([True, False, True]))
    lanes.extend(lanes_of([specs[3]]))
    goal = np.array([150, 150, 100])
    while (lanes.step < goal).any():
        reached = machine.advance(lanes, goal, np.full(3, -np.inf), 1000)
        lanes.active &= ~reached
    for lane, (n, steps) in enumerate([(0, 150), (2, 150), (3, 100)]):
        np.testing.assert_allclose(product(lanes)[lane], oracle.train(specs[n], steps).product, rtol=1e-9)


@pytest.mark.parametrize("engine", ["batched", "fused"])
def test_float32_follows_float64_to_its_precision(engine):
    fine = advance(create(engine), lanes_of([spec()]), 200)
    coarse = advance(create(engine), lanes_of([spec(dtype="float32")]), 200)
    assert coarse.params[0].dtype is torch.float32
    np.testing.assert_allclose(product(coarse), product(fine), rtol=1e-4)
    assert np.abs(product(coarse) - product(fine)).max() > 0


def cp_of(shape, observed, components):
    return spec(
        problem={"kind": "tensor_completion", "shape": shape, "target": {"rank": 2, "frobenius": 2.0}, "observed": observed},
        factorization={"kind": "cp", "components": components},
        init__scale=0.3,
        optimizer__lr=1e-4,
    )


FUSED = {
    "unrolled": two_by_two(3, optimizer__lr=1e-4, init={"kind": "gaussian", "product_scale": 0.3}),
    "looped": spec(factorization__depth=3, optimizer__lr=1e-4),
    "rectangular": spec(
        problem={"kind": "matrix_completion", "shape": [7, 5], "target": {"rank": 2}, "observed": 20},
        factorization={"kind": "deep_matrix", "depth": 3, "widths": [6, 3]},
        optimizer__lr=1e-4,
    ),
    # The norm of the whole gradient: a sum over all entries, whose order must not depend on how many lanes there are.
    "normed": spec(factorization__depth=4, optimizer=OPTIMIZERS["group_rmsprop"] | {"lr": 1e-4}),
    # Sixteen components fill vectors, six do not; neighbouring fibers are wholly observed, or one is, or none.
    "cp_full": cp_of([3, 3, 11], 99, 16),
    "cp_half": cp_of([2, 3, 2, 4], 33, 6),
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_equals_oracle_over_ten_thousand_steps(name):
    lanes = advance(create("fused"), lanes_of([FUSED[name]] * 3), 10_000)
    loss, truth = oracle.by_hand(FUSED[name], 10_000)
    for lane in range(3):
        assert lanes.loss[lane] == pytest.approx(loss, rel=1e-9)
        np.testing.assert_allclose(product(lanes)[lane], truth, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FUSED)
def test_gradients_by_hand_are_those_of_autograd(name):
    loss, truth = oracle.by_hand(FUSED[name], 500)
    assert loss == pytest.approx(oracle.train(FUSED[name], 500).losses[-1], rel=1e-11)
    np.testing.assert_allclose(truth, oracle.train(FUSED[name], 500).product, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_fused_gives_a_trial_the_same_bits_in_any_pack_and_place(name, dtype):
    specs = [FUSED[name].model_copy(update={"seed": n, "dtype": dtype}) for n in range(19)]
    whole = advance(create("fused"), lanes_of(specs), 700)
    turned = advance(create("fused"), lanes_of(specs[::-1]), 700)
    np.testing.assert_array_equal(product(turned)[::-1], product(whole))
    for lane in range(19):
        alone = advance(create("fused"), lanes_of([specs[lane]]), 700)
        np.testing.assert_array_equal(product(alone)[0], product(whole)[lane])


@pytest.mark.parametrize("name", [name for name in FUSED if not name.startswith("cp")])
@pytest.mark.parametrize("optimizer", FUSED_OPTIMIZERS)
def test_a_thread_for_each_lane_gives_the_same_bits(name, optimizer):
    """The layout that a GPU gets, on a CPU."""
    one = FUSED[name].model_copy(update={"optimizer": spec(optimizer=OPTIMIZERS[optimizer] | {"lr": 1e-3}).optimizer})
    specs = [one.model_copy(update={"seed": n, "loss": loss_of("mse" if n % 2 else "half_sse")}) for n in range(11)]
    grouped, threaded = FusedEngine(), FusedEngine(threads=True)
    one_way, other = lanes_of(specs), lanes_of(specs)
    for steps in (1, 50, 200):
        advance(grouped, one_way, steps)
        advance(threaded, other, steps)
    np.testing.assert_array_equal(product(other), product(one_way))
    np.testing.assert_array_equal(other.loss, one_way.loss)
    for mine, theirs in zip(other.tensors, one_way.tensors, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


@pytest.mark.parametrize("there", [Registers(16, 32), Registers(32, 16)], ids=["NEON", "AVX2"])
@pytest.mark.parametrize("name", ["unrolled", "looped", "normed"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_narrower_registers_give_the_same_bits(name, dtype, there, monkeypatch):
    specs = [FUSED[name].model_copy(update={"seed": n, "dtype": dtype}) for n in range(13)]
    one_way = advance(create("fused"), lanes_of(specs), 100)
    monkeypatch.setattr("workloads.engines.kernels.deep_matrix_key.registers", lambda: there)
    other = advance(create("fused"), lanes_of(specs), 100)
    np.testing.assert_array_equal(product(other), product(one_way))


def test_both_styles_of_kernel_are_tested():
    def unrolled(one):
        return DeepMatrixKey(tuple(one.factor_shapes.values()), 0, "gd", "float64", 8).unrolled

    styles = {name: unrolled(one) for name, one in FUSED.items() if not name.startswith("cp")}
    assert styles == {"unrolled": True, "looped": False, "rectangular": False, "normed": False}


@pytest.mark.parametrize("optimizer", FUSED_OPTIMIZERS)
@pytest.mark.parametrize("name", ["cp_full", "cp_half"])
def test_fused_cp_equals_oracle_with_every_optimizer(name, optimizer):
    one = FUSED[name].model_copy(update={"optimizer": spec(optimizer=OPTIMIZERS[optimizer]).optimizer, "loss": loss_of("mse")})
    lanes = advance(create("fused"), lanes_of([one, one.model_copy(update={"seed": 4})]), 500)
    np.testing.assert_allclose(product(lanes)[0], oracle.train(one, 500).product, rtol=1e-9, atol=1e-12)


def test_a_lane_that_has_ended_is_left_as_it_is():
    specs = [FUSED["cp_half"].model_copy(update={"seed": n}) for n in range(2)]
    machine, lanes = create("fused"), lanes_of(specs)
    advance(machine, lanes, 10)
    lanes.active[0] = False
    before = product(lanes)[0].copy()
    machine.advance(lanes, np.array([99, 99]), np.full(2, -np.inf), 1000)
    assert lanes.step.tolist() == [10, 99]
    np.testing.assert_array_equal(product(lanes)[0], before)


def test_entry_tree_holds_every_observed_entry_of_each_lane():
    specs = [
        FUSED["cp_half"].model_copy(update={"seed": n, "problem": cp_of([2, 3, 2, 4], k, 6).problem}) for n, k in enumerate((33, 1, 33, 48))
    ]
    lanes = lanes_of(specs)
    values, index, child, roots, places = (t.tolist() for t in entry_tree(lanes))

    def entries(level, start, stop, path):
        for node in range(start, stop):
            here = (*path, index[node])
            if level == 3:
                assert places[node] == np.ravel_multi_index(here, (2, 3, 2, 4))
                yield here, values[node]
            else:
                yield from entries(level + 1, child[node], child[node + 1], here)

    for lane, problem in enumerate(lanes.problems):
        found = dict(entries(0, *roots[lane], ()))
        target, mask = problem.target.reshape(problem.shape), problem.mask.reshape(problem.shape)
        assert found == {tuple(at): target[tuple(at)] for at in np.argwhere(mask).tolist()}


def test_fused_stops_in_float32_at_goals_that_float32_cannot_hold():
    one = two_by_two(2, optimizer__lr=0.05, dtype="float32")
    lanes = lanes_of([one] * 3)
    machine = create("fused")
    goals = np.array([0.1, 0.05, 0.025])
    for _ in range(100):
        reached = machine.advance(lanes, np.full(3, 10_000), np.where(lanes.active, goals, -np.inf), 10_000)
        lanes.active &= ~reached
        if not lanes.active.any():
            break
    assert not lanes.active.any()
    assert (lanes.loss <= goals).all()


def test_a_lane_of_enormous_loss_does_not_hold_up_its_group():
    # Finite, but eight such losses add up to infinity.
    huge = two_by_two(2, init={"kind": "gaussian", "scale": 3e76}, optimizer__lr=1e-300)
    specs = [huge.model_copy(update={"seed": n}) for n in range(8)]
    lanes = lanes_of(specs)
    create("fused").advance(lanes, np.full(8, 50), np.full(8, -np.inf), 1000)
    assert np.isfinite(lanes.loss).all()
    assert (lanes.step == 50).all()


def test_that_there_is_no_gpu_is_no_news(capfd):
    with _unsaid(b"Warp CUDA warning: Could not"):
        os.write(2, b"Warp CUDA error: old driver\nWarp CUDA warning: Could not find it\nother\n")
    assert capfd.readouterr().err == "Warp CUDA error: old driver\nother\n"
    code = "from workloads.engines.kernels.launching import start_warp; start_warp().init()"
    assert "could not find" not in run([sys.executable, "-c", code]).stderr.lower()


@pytest.mark.parametrize(
    "one",
    [
        spec(problem={"kind": "matrix_sensing", "shape": [2, 2], "target": {"rank": 1}, "observed": 3}, optimizer__lr=0.01),
        spec(problem={"kind": "matrix_sensing", "shape": [4, 5], "target": {"rank": 1}, "observed": 11}, optimizer__lr=0.01),
        spec(
            problem={"kind": "vector_sensing", "shape": [24], "target": {"sparsity": 2}, "observed": 11},
            factorization={"kind": "diagonal", "depth": 3},
            optimizer__lr=1e-3,
        ),
    ],
    ids=["unrolled", "looped", "traced"],
)
def test_fused_gives_the_same_bits_whether_all_lanes_share_their_measurements(one):
    alike = [one.model_copy(update={"seed": n}) for n in range(9)]
    other = one.model_copy(update={"problem": one.problem.model_copy(update={"seed": 7})})
    found = []
    for specs in (alike, [*alike[:8], other]):
        machine, lanes = create("fused"), lanes_of(specs)
        advance(machine, lanes, 50)
        # What has ended stays as it is, and disturbs nobody.
        lanes.active[3] = False
        machine.advance(lanes, np.full(9, 99), np.full(9, -np.inf), 1000)
        found.append((product(lanes)[:8], lanes.loss[:8].copy(), lanes.step.copy()))
    assert found[0][2].tolist() == [99] * 3 + [50] + [99] * 5
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(mine, theirs)
