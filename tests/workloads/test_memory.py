"""The memory model of lanes against the memory that tensors really take."""

from __future__ import annotations

import gc
import itertools
from functools import partial

import numpy as np
import pytest
import torch
from torch.autograd.profiler import profile

from orchestrator.planning.pack import Crew
from orchestrator.planning.plan import make_plan
from tests.contract.sizes import SIZES, larger
from tests.specs import spec, trials
from tests.workloads.test_autoencoder import small
from tests.workloads.test_engines import lanes_of
from workloads import measures
from workloads.engines.base import create
from workloads.engines.choice import chosen
from workloads.engines.lanes import Lanes
from workloads.factorizations import Factorization
from workloads.measures import work
from workloads.measures.numerics import objective
from workloads.measures.numerics.snapshot import Snapshot, evaluate
from workloads.measures.work import NUMBERS, Rows
from workloads.training.preparing import Preparer
from workloads.training.recording import Recording
from workloads.trial import lane_cost, measurement_bytes


@pytest.fixture(autouse=True)
def _nothing_old_is_looked_at(_garbage):
    """Of all that other tests have made, nothing is looked at again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def _garbage():
    """In the end, what was left alone is what it was."""
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def held() -> int:
    """Bytes of all tensors that this test has made, and that are still there."""
    gc.collect()
    storages = [t.untyped_storage() for t in gc.get_objects() if type(t) is torch.Tensor]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


@pytest.mark.parametrize("name", SIZES)
def test_lanes_take_about_what_planning_says(name):
    specs = larger(name, 40)
    preparer = Preparer({})
    lanes = Lanes([preparer.prepare(t) for t in trials(specs)], torch.device("cpu"))
    engine = create(chosen("batched", specs))
    engine.advance(lanes, np.full(40, 10), np.full(40, -np.inf), 10)
    taken = held()
    # Losses of a block of steps are kept whatever the lanes' size.
    said = 40 * (lane_cost(specs[0]).bytes + measurement_bytes(specs[0]))
    # Solvers and autograd let go of most of what they need before they return, or hold it where nobody sees it.
    seen = not specs[0].factorization.solved and type(specs[0].factorization).program is not Factorization.program
    most = 1.2 if seen else 4.0
    assert 0.9 * taken < said < most * taken, f"{said / taken:.2f} of what is taken"


@pytest.mark.parametrize("optimizer", [{"kind": "adam", "lr": 1e-3, "batch": 12}, {"kind": "gd", "lr": 1e-3}])
@pytest.mark.parametrize("loss", ["mse", "half_sse"])
def test_autoencoders_take_about_what_planning_says(optimizer, loss):
    keys = {"kind": "autoencoder", "hidden": [64], "code_size": 16, "linear_layers": 2}
    specs = [small(optimizer=optimizer, factorization=keys, problem__shape=[8, 8, 3], loss=loss, seed=n) for n in range(20)]
    lanes = lanes_of(specs)
    engine = create("batched")
    engine.advance(lanes, np.full(20, 10), np.full(20, -np.inf), 10)
    taken = held()
    said = 20 * lane_cost(specs[0]).bytes + measurement_bytes(specs[0])
    assert 0.9 * taken < said < 1.3 * taken, f"{said / taken:.2f} of what is taken"


def peak(call) -> int:
    """Bytes of the tensors that ``call`` has at once, at most."""
    with profile(profile_memory=True) as recorded:
        call()
    changes = [event.nbytes() for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(changes))


MEASURED = [
    *itertools.product(
        ("matrix_completion-deep_matrix-mse", "tensor_sensing-cp-mse"),
        ("error", "gradient_norm", "sharpness", "distance_to_min_frobenius"),
    ),
    ("matrix_completion-deep_matrix-mse", "held_out_rmse"),
    ("matrix_sensing-deep_matrix-huber", "singular_values"),
    ("tensor_sensing-cp-mse", "unfolding_effective_rank"),
    *itertools.product(("matrix_sensing-deep_matrix-huber", "reconstruction-autoencoder-mse"), ("gradient_norm", "sharpness")),
]


@pytest.mark.parametrize(("name", "measure"), MEASURED)
def test_measures_take_about_what_planning_says(name, measure, monkeypatch):
    for module in (work, objective):
        monkeypatch.setattr(module, "ITERATIONS", 6)
    specs = larger(name, 12)
    generator = torch.Generator().manual_seed(0)
    params = [0.5 * torch.randn(12, *shape, dtype=torch.float64, generator=generator) for shape in specs[0].factor_shapes.values()]
    for count in (12, 1):
        problems = [one.problem.realize({}) for one in specs[:count]] * (12 // count)
        lanes = partial(Snapshot, specs[0].factorization, params, torch.zeros(12), problems, 1e-16, specs)
        taken = peak(lambda: evaluate([measure], lanes()))  # noqa: B023
        said = measures.held_meanwhile([measure], Rows(specs[0], 12, count))
        # Where all share a problem its arrays count little, where they do not they are most of it.
        assert 0.8 * taken < said < 2.5 * taken, f"{said / taken:.2f} of what is taken"


def test_a_plan_has_the_memory_of_what_its_measures_hold():
    one = spec(problem__shape=[20, 20], problem__observed=100, factorization__depth=3, stop={"steps": 1000})
    some = trials([one.model_copy(update={"seed": seed}) for seed in range(40)])

    def planned(*names, points=200):
        (pack,) = make_plan(some, Recording(names, points), "batched", [Crew(1)]).packs
        return pack

    assert planned().shared_bytes == 0, "the loss is no copy of factors"
    plain = planned("error", "nuclear")
    # 1,200 parameters of 1,024 rows and of the lanes that come to them, copied and laid beside each other; their products and more.
    assert plain.shared_bytes == 8 * (1024 + 40) * (2 * 1200 + 5 * 400)
    halves = [one.model_copy(update={"seed": seed, "dtype": "float32"}) for seed in range(40)]
    (half,) = make_plan(trials(halves), Recording(("error", "nuclear")), "batched", [Crew(1)]).packs
    # Copies of half the size, which are measured in float64.
    assert half.shared_bytes == 8 * (1024 + 40) * (2 * 1200 + 5 * 400)
    held = planned("error", "sharpness").shared_bytes
    # 300 vectors of Lanczos' method for each of the lanes that are measured side by side.
    assert 0.9 < (held - plain.shared_bytes) / (8 * NUMBERS) <= 1
    assert planned("error", "sharpness", "gradient_norm").shared_bytes == held
    # Each has three rows: the first, the last, and one beside.
    assert 0 < planned("gradient_norm", points=0).shared_bytes < planned("gradient_norm").shared_bytes < held
    assert planned("error", "sharpness").bytes == held + 40 * plain.lane_bytes
    (narrow,) = make_plan(some, Recording(("error", "sharpness")), "batched", [Crew(1, memory=held + 5 * plain.lane_bytes)]).packs
    assert narrow.width == 5
