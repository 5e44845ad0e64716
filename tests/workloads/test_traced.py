"""Factorizations of which only one run's product is known: traced, run over lanes, and written as kernels."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
import torch

from tests.contract import references
from tests.processes import run as run_process
from tests.specs import OPTIMIZERS, spec
from tests.workloads import oracle
from tests.workloads.test_engines import advance, lanes_of, product
from workloads.engines.base import create
from workloads.engines.choice import chosen, remark, why_not_fused
from workloads.engines.fused import FusedEngine
from workloads.engines.kernels.source import Registers
from workloads.factorizations import FACTORIZATIONS, Factorization
from workloads.factorizations.graphs.graph import Graph
from workloads.factorizations.graphs.known import graph_of
from workloads.factorizations.graphs.tracing import traced
from workloads.factorizations.graphs.views import View, refined
from workloads.factorizations.programs.differentiated import LaneByLane
from workloads.factorizations.programs.traced import TracedProgram

F64 = torch.float64


def in_place(x, y):
    out = torch.zeros(3, 3, dtype=x.dtype)
    out[:2, :2] = x
    out[2] += y
    return torch.tanh(out) + torch.softmax(out, 1)


def circular(x, y):
    places = torch.arange(len(x))
    return (y[(places[:, None] - places) % len(x)] * x).sum(1)


def activations(a, b):
    z = a @ b
    return torch.relu(z) + torch.sigmoid(z).exp() - torch.nn.functional.gelu(z) + torch.where(z > 0.1, z, 2 * z.abs())


PRODUCTS = {
    "tucker": (lambda c, x, y, z: torch.einsum("abc,ia,jb,kc->ijk", c, x, y, z), [(2, 3, 2), (4, 2), (5, 3), (3, 2)]),
    "cp": (lambda x, y, z: torch.einsum("ir,jr,kr->ijk", x, y, z), [(4, 7), (5, 7), (6, 7)]),
    "train": (lambda x, y, z: torch.einsum("aib,bjc,ckd->ijk", x, y, z), [(1, 4, 2), (2, 5, 3), (3, 6, 1)]),
    "deep": (lambda x, y, z: z @ y @ x, [(13, 13)] * 3),
    "symmetric": (lambda u, v: u @ u.T - v @ v.T, [(5, 2), (5, 3)]),
    "powers": (lambda u, v: u**3 - v**3, [(6,), (6,)]),
    "higher": (lambda u, v: u**4 - v**7, [(6,), (6,)]),
    "roots": (lambda u: u.abs() ** 1.7 + 1 / (1 + u**2).sqrt() + 2.0**u, [(6,)]),
    "circular": (circular, [(7,), (7,)]),
    "rolled": (lambda x, y: sum(torch.roll(x, k) * y[k] for k in range(5)), [(5,), (5,)]),
    "in_place": (in_place, [(2, 2), (3,)]),
    "activations": (activations, [(4, 3), (3, 5)]),
    "normed": (lambda a: a / a.norm(dim=0) + a.amax(0) - a.mean(), [(4, 3)]),
    "triangles": (lambda a: torch.triu(a) @ torch.tril(a) + torch.diag(a.diagonal()) + torch.eye(4, dtype=F64), [(4, 4)]),
    "joined": (lambda a, b: torch.stack([torch.cat([a, b]), torch.cat([b, a]).flip(0)]), [(4,), (3,)]),
    "kronecker": (torch.kron, [(2, 3), (4, 2)]),
    "chosen": (lambda a: a[[0, 2, 2, 1]] * a[1, 0], [(3, 2)]),
    "limited": (lambda a: a.clamp_max(0.8) + a.clamp(0.6, 0.9) * a.clamp_min(0.7), [(4, 3)]),
    "padded": (lambda a: torch.nn.functional.pad(a, (1, 2)), [(4, 3)]),
    "truths": (lambda a, b: (a > 0.7).to(a.dtype) @ b, [(4, 3), (3, 2)]),
    "logarithms": (lambda a: torch.log1p(a.abs()) + torch.expm1(a), [(4, 3)]),
    "apart": (lambda a: a - a.amax() + a.amin(), [(5, 5)]),
    "unused": (lambda a, b: 2 * a, [(4,), (3,)]),  # noqa: ARG005
    "itself": (lambda a: a, [(4, 3)]),
    "transposed": (lambda a: a.T, [(4, 3)]),
}
CALLED = {
    "running": (lambda a: a.cumsum(0), [(5, 4)]),
    "exponential": (torch.matrix_exp, [(4, 4)]),
    "with_ones": (lambda a: torch.nn.functional.pad(a, (0, 1), value=1.0), [(4, 3)]),
}
"""What is traced, but has operations that are called as they are."""


def run(graph, params, outer):
    """The product and the gradients [R, ...] of a graph, the second time that its buffers are used."""
    grads = [torch.empty_like(p) for p in params]
    program = TracedProgram(graph, params, grads, outer)
    for _ in range(2):
        program.forward()
        program.backward()
    return [program.product.clone(), *grads]


def drawn(graph, lanes, dtype=F64):
    generator = torch.Generator().manual_seed(1)
    params = [0.1 + 0.7 * torch.randn(lanes, *shape, generator=generator, dtype=dtype) for shape in graph.parameters]
    return params, torch.randn(lanes, *graph.shape, generator=generator, dtype=dtype).flatten(1)


def graph(name):
    found = traced(*{**PRODUCTS, **CALLED}[name], F64)
    assert isinstance(found, Graph), found
    return found


@pytest.mark.parametrize("name", [*PRODUCTS, *CALLED])
def test_lanes_are_what_autograd_says_of_each(name):
    function, _ = {**PRODUCTS, **CALLED}[name]
    params, outer = drawn(graph(name), 5)
    found = run(graph(name), params, outer)
    for lane in range(5):
        leaves = [p[lane].clone().requires_grad_() for p in params]
        whole = function(*leaves)
        truth = torch.autograd.grad(whole, leaves, outer[lane].view_as(whole), allow_unused=True, materialize_grads=True)
        for mine, theirs in zip(found, [whole.detach().flatten(), *truth], strict=True):
            np.testing.assert_allclose(mine[lane], theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", [*PRODUCTS, *CALLED])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_a_lane_has_the_same_bits_among_any_others(name, dtype):
    found = traced(*{**PRODUCTS, **CALLED}[name], dtype)
    params, outer = drawn(found, 67, dtype)
    whole = run(found, params, outer)
    for start, stop in ((0, 1), (66, 67), (1, 3), (5, 22), (3, 67)):
        # Views into the same tensors: lanes that start anywhere.
        part = run(found, [p[start:stop] for p in params], outer[start:stop])
        for mine, theirs in zip(part, whole, strict=True):
            np.testing.assert_array_equal(mine, theirs[start:stop])


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_step_allocates_nothing(name):
    """Or a GPU could not replay it."""
    params, outer = drawn(graph(name), 5)
    program = TracedProgram(graph(name), params, [torch.empty_like(p) for p in params], outer)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        program.forward()
        program.backward()
    assert [event.name for event in seen.events() if event.self_cpu_memory_usage > 0] == []


@pytest.mark.parametrize(
    ("function", "shapes", "why"),
    [
        (lambda a: a if a.sum() > 0 else -a, [(4,)], "what it does depends on the numbers in its factors"),
        (lambda a: a * a.max().item(), [(4,)], "what it does depends on the numbers in its factors"),
        (lambda a: a + torch.rand(4), [(4,)], "it draws random numbers"),
        (lambda a: torch.fft.fft(a).real, [(4,)], "complex"),
        (lambda a: torch.linalg.svd(a)[1], [(4, 4)], "_linalg_svd"),
        (lambda a: a @ a, [(4, 3)], "cannot be multiplied"),
        (lambda a: a.max(0).values, [(4, 3)], "aten.max.dim"),
    ],
)
def test_says_why_there_is_no_graph(function, shapes, why):
    assert why in traced(function, shapes, F64)


def test_einsum_multiplies_in_the_order_in_which_it_is_written():
    """With opt_einsum installed PyTorch chooses one: numbers must not depend on what else there is."""
    first = graph("tucker").steps[0]
    assert {view.array for view in first.operands} == {0, 1}


@pytest.mark.parametrize(
    ("shape", "order", "then"),
    [((2, 3, 4), (2, 0, 1), (4, 6)), ((2, 3, 4), (2, 0, 1), (8, 3)), ((2, 3, 4), (1, 2, 0), (3, 2, 2, 2)), ((6, 4), (1, 0), (2, 12))],
)
def test_views_are_where_pytorch_has_the_entries(shape, order, then):
    entries = torch.arange(np.prod(shape)).view(shape)
    view = View.whole(0, shape).permuted(order)
    np.testing.assert_array_equal(view.indices(), entries.permute(order))
    reshaped = view.reshaped(then)
    np.testing.assert_array_equal(reshaped.indices(), entries.permute(order).reshape(then))
    np.testing.assert_array_equal(view.expanded((5, *view.shape)).indices(), entries.permute(order).expand(5, *view.shape))
    np.testing.assert_array_equal(view.sliced(0, 1, 2, 1).indices(), entries.permute(order)[1:2])
    np.testing.assert_array_equal(reshaped.selected(1, 1).indices(), entries.permute(order).reshape(then)[:, 1])


def test_what_no_digits_can_say_is_not_a_view():
    assert View.whole(0, (2, 3)).permuted((1, 0)).reshaped((2, 3)) is None
    assert refined([((6, 1),), ((2, 1), (3, 2))]) == [(2, (3, 1)), (3, (1, 2))]
    assert refined([((2, 3), (3, 1)), ((3, 2), (2, 1))]) is None


@pytest.fixture
def own(monkeypatch):
    """Makes factorizations as a user would write them, by their shapes and the product of one run."""
    kinds = []

    def make(name, shapes, function):
        class Own(Factorization):
            kind = name

            def shapes(self, shape):  # noqa: ARG002
                return {f"X{n}": s for n, s in enumerate(shapes, 1)}

            # With a name, as users write it.
            def product(self, X1, *others):
                return function(X1, *others)

        kinds.append(name)
        monkeypatch.setitem(references.FACTORIZATIONS, name, references.Factorization({}, function))
        return {"kind": name}

    yield make
    for kind in kinds:
        FACTORIZATIONS.remove(kind)


TENSOR = {"kind": "tensor_completion", "shape": [4, 5, 3], "target": {"rank": 2, "frobenius": 2.0}, "observed": 30}
MATRIX = {"kind": "matrix_completion", "shape": [3, 3], "target": {"rank": 1, "frobenius": 1.0}, "observed": 6}
TRAINED = {
    "tucker": (PRODUCTS["tucker"], {"problem": TENSOR, "init__scale": 0.6, "optimizer__lr": 0.01}),
    "in_place": (PRODUCTS["in_place"], {"problem": MATRIX}),
    "sensed": (
        (lambda u, v: u @ u.T - v @ v.T, [(3, 2), (3, 2)]),
        {"problem": {"kind": "matrix_sensing", "shape": [3, 3], "target": {"rank": 1}, "observed": 5}, "optimizer__lr": 0.005},
    ),
    "rooted": ((lambda u, v: torch.sigmoid(u @ v) + torch.sqrt(u.amax(1, keepdim=True) ** 2 + 1), [(3, 2), (2, 3)]), {"problem": MATRIX}),
    "large": (
        (lambda c, x, y, z: torch.einsum("abc,ia,jb,kc->ijk", c, x, y, z), [(3, 2, 4), (8, 3), (7, 2), (9, 4)]),
        {"problem": {**TENSOR, "shape": [8, 7, 9], "observed": 300}, "init__scale": 0.5, "optimizer__lr": 0.003},
    ),
    "large_in_place": (
        (lambda x: torch.stack([torch.tanh(x.roll(1, 0)) @ x.tril(), x.exp()[[2, 0, 0, 1, 5, 4]]]).sum(0), [(6, 6)]),
        {"problem": {**MATRIX, "shape": [6, 6], "observed": 25}},
    ),
    "apart": ((lambda x: x - x.amax() + x.amin(), [(5, 5)]), {"problem": {**MATRIX, "shape": [5, 5], "observed": 20}}),
    "decides": ((lambda u, v: u @ v if u.sum() > 0 else u @ v + 0.1, [(3, 2), (2, 3)]), {"problem": MATRIX}),
}


def one_of(own, name, **more):
    (function, shapes), changes = TRAINED[name]
    return spec(factorization=own(f"own_{name}", shapes, function), **{**changes, **more})


@pytest.mark.parametrize("engine", ["batched", "fused"])
@pytest.mark.parametrize("name", TRAINED)
def test_equals_the_plain_loop_over_a_thousand_steps(own, name, engine):
    one = one_of(own, name)
    if engine == "fused" and why_not_fused(one):
        pytest.skip("it has no kernel")
    truth = oracle.train(one, 1000)
    lanes = advance(create(engine), lanes_of([one, one.model_copy(update={"seed": 1}), one]), 1000)
    for lane in (0, 2):
        assert lanes.loss[lane] == pytest.approx(truth.losses[-1], rel=1e-8, abs=1e-26)
        np.testing.assert_allclose(product(lanes)[lane], truth.product, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("engine", ["batched", "fused"])
@pytest.mark.parametrize("name", ["tucker", "in_place", "large", "decides"])
@pytest.mark.parametrize("optimizer", ["gd", "group_rmsprop", "adam"])
def test_a_trial_has_the_same_bits_in_any_pack_and_place(own, name, engine, optimizer):
    one = one_of(own, name, optimizer=OPTIMIZERS[optimizer] | {"lr": 1e-3})
    if engine == "fused" and why_not_fused(one):
        pytest.skip("it has no kernel")
    specs = [one.model_copy(update={"seed": n}) for n in range(19)]
    steps = 20 if name == "decides" else 200
    whole = advance(create(engine), lanes_of(specs), steps)
    turned = advance(create(engine), lanes_of(specs[::-1]), steps)
    np.testing.assert_array_equal(product(turned)[::-1], product(whole))
    np.testing.assert_array_equal(turned.loss[::-1], whole.loss)
    for part in (slice(0, 1), slice(18, 19), slice(4, 7)):
        some = advance(create(engine), lanes_of(specs[part]), steps)
        np.testing.assert_array_equal(product(some), product(whole)[part])
        np.testing.assert_array_equal(some.loss, whole.loss[part])


def test_what_cannot_be_traced_runs_lane_by_lane(own):
    one = one_of(own, "decides")
    assert graph_of(one.factorization, [(3, 2), (2, 3)], F64) == "what it does depends on the numbers in its factors"
    lanes = lanes_of([one, one])
    program = lanes.factorization.program(lanes.params, [torch.empty_like(p) for p in lanes.params], torch.zeros(2, 9, dtype=F64))
    assert isinstance(program, LaneByLane)


def test_a_trace_that_gives_other_numbers_is_not_used(own):
    """Truths that are added are true, and not two."""
    kind = own("own_added", [(3, 3), (3, 3)], lambda a, b: a * ((a > 0.7) + (b > 0.7)).to(a.dtype))
    assert graph_of(spec(factorization=kind).factorization, [(3, 3), (3, 3)], F64) == "its trace gives other numbers than it does"


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda a: torch.expm1(a.abs()), "its kernels do not know expm1"),
        (lambda a: a.masked_fill(torch.eye(3, dtype=torch.bool), -torch.inf).softmax(1), "constants that are not finite"),
    ],
)
def test_kernels_are_for_functions_and_numbers_that_they_know(own, function, why):
    assert why in why_not_fused(spec(factorization=own("own_unknown", [(3, 3)], function), problem=MATRIX))


def test_a_product_of_many_lanes_alone_is_that_of_one():
    class Own(FACTORIZATIONS["tucker"]):
        def products(self, factors):
            return 2 * super().products(factors)

    factors = [torch.rand(*shape, dtype=F64) for shape in ((2, 2, 2), (4, 2), (5, 2), (3, 2))]
    one = Own(ranks=[2, 2, 2])
    assert torch.equal(one.product(*factors), one.products([f.unsqueeze(0) for f in factors])[0])
    assert not torch.equal(one.product(*factors), FACTORIZATIONS["tucker"](ranks=[2, 2, 2]).product(*factors))


def test_planning_says_why_lanes_run_one_by_one_or_have_no_kernel(own):
    decides, running = one_of(own, "decides"), spec(factorization=own("own_running", [(4, 4)], lambda a: a.cumsum(0)))
    assert "runs lane by lane" in remark(decides, "batched")
    assert "what it does depends on the numbers in its factors" in remark(decides, "batched")
    assert "its kernels do not know aten.cumsum.default" in remark(running, "batched")
    assert chosen("auto", [running] * 8) == chosen("auto", [decides] * 8) == "batched"
    tucker = one_of(own, "tucker")
    assert chosen("auto", [tucker] * 64) == "fused"
    assert remark(tucker, "fused") == remark(spec(), "batched") == ""


def test_planning_a_factorization_that_is_known_imports_no_pytorch(tmp_path):
    code = (
        "import sys; from workloads.trial import TrialSpec; from workloads.engines.choice import chosen; import json;"
        "one = TrialSpec.model_validate(json.loads(sys.argv[1])); print(chosen('auto', [one] * 64), 'torch' in sys.modules)"
    )
    given = {
        "problem": TENSOR,
        "factorization": {"kind": "tucker", "ranks": [2, 2, 2]},
        "init": {"kind": "gaussian", "scale": 0.3},
        "optimizer": {"kind": "gd", "lr": 0.05},
        "stop": {"steps": 100},
    }
    one = json.dumps(given)
    said = [
        run_process([sys.executable, "-c", code, one], env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}).stdout.split() for _ in range(2)
    ]
    assert said == [["fused", "True"], ["fused", "False"]]


@pytest.mark.parametrize(("name", "optimizer"), [("tucker", "group_rmsprop"), ("large", "gd"), ("large_in_place", "group_rmsprop")])
def test_a_thread_for_each_lane_gives_the_same_bits(own, name, optimizer):
    """The layout that a GPU gets, on a CPU."""
    one = one_of(own, name, optimizer=OPTIMIZERS[optimizer] | {"lr": 1e-3})
    specs = [one.model_copy(update={"seed": n}) for n in range(5)]
    grouped, threaded = (advance(FusedEngine(threads=threads), lanes_of(specs), 100) for threads in (False, True))
    np.testing.assert_array_equal(product(threaded), product(grouped))
    np.testing.assert_array_equal(threaded.loss, grouped.loss)


@pytest.mark.parametrize("name", ["train", "symmetric", "activations", "normed", "joined", "chosen"])
def test_kernels_in_loops_and_in_a_straight_line_train_alike(own, name, monkeypatch):
    function, shapes = PRODUCTS[name]
    shape = graph(name).shape
    kind = {2: "matrix_completion", 3: "tensor_completion"}[len(shape)]
    problem = {"kind": kind, "shape": list(shape), "target": {"rank": 1}, "observed": 0.7}
    one = spec(problem=problem, factorization=own(f"both_{name}", shapes, function), optimizer__lr=1e-3)
    truth = advance(create("batched"), lanes_of([one] * 2), 50)
    for most in (0, 1 << 20):
        monkeypatch.setattr("workloads.engines.kernels.traced_key.STRAIGHT_FLOPS", most)
        found = advance(create("fused"), lanes_of([one] * 2), 50)
        np.testing.assert_allclose(product(found), product(truth), rtol=1e-11, atol=1e-13)


ROWS = {
    "halves": (lambda a, b, c, d: ((a @ b) * a.mean(0).sum()) @ (c @ d).T, [(19, 17), (17, 35), (21, 18), (18, 35)]),
    "tensor": (lambda c, x, y, z: torch.einsum("abc,ia,jb,kc->ijk", c, x, y, z), [(3, 4, 18), (5, 3), (4, 4), (18, 18)]),
}
"""Products whose rows are longer than vectors and fill no whole number of them."""


@pytest.mark.parametrize(("name", "optimizer"), [("halves", "gd"), ("halves", "group_rmsprop"), ("tensor", "adam")])
def test_a_lane_by_itself_trains_like_lanes_side_by_side(own, name, optimizer, monkeypatch):
    function, shapes = ROWS[name]
    shape = function(*map(torch.zeros, shapes)).shape
    kind = {2: "matrix_completion", 3: "tensor_completion"}[len(shape)]
    problem = {"kind": kind, "shape": list(shape), "target": {"rank": 1}, "observed": 0.7}
    given = OPTIMIZERS[optimizer] | {"lr": 1e-3, "clip": 0.1, "weight_decay": 0.1} if optimizer != "gd" else {"kind": "gd", "lr": 1e-3}
    one = spec(problem=problem, factorization=own(f"rows_{name}", shapes, function), optimizer=given, init__scale=0.2)
    specs = [one.model_copy(update={"seed": n}) for n in range(3)]
    truth = advance(create("batched"), lanes_of(specs), 50)
    monkeypatch.setattr("workloads.engines.kernels.traced_key.GROUP_BYTES", 0)
    monkeypatch.setattr(Graph, "in_rows", True)
    found, alone = (advance(create("fused"), lanes_of(some), 50) for some in (specs, specs[2:]))
    np.testing.assert_allclose(product(found), product(truth), rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(product(alone)[0], product(found)[2])
    monkeypatch.setattr("workloads.engines.kernels.traced_key.registers", lambda: Registers(32, 16))
    narrower = advance(create("fused"), lanes_of(specs), 50)
    np.testing.assert_array_equal(product(narrower), product(found))


def test_a_large_matrix_has_the_kernel_of_its_graph(monkeypatch):
    one = spec(problem__shape=[20, 24], problem__observed=200, factorization__depth=3, optimizer__lr=1e-3)
    by_hand = advance(create("fused"), lanes_of([one] * 2), 300)
    for name, value in (("traced.ALONE", 20), ("traced_key.GROUP_BYTES", 0)):
        monkeypatch.setattr(f"workloads.engines.kernels.{name}", value)
    from_graph = advance(create("fused"), lanes_of([one] * 2), 300)
    assert not np.array_equal(product(from_graph), product(by_hand))
    np.testing.assert_allclose(product(from_graph), product(by_hand), rtol=1e-11, atol=1e-13)
