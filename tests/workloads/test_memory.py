"""The memory model of lanes against the memory that tensors really take."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from tests.specs import OPTIMIZERS, spec, trials
from workloads.engines.base import create
from workloads.lanes import Lanes, Preparer
from workloads.shapes import lane_cost, measurement_bytes

TENSOR = {"kind": "tensor_completion", "shape": [6, 7, 8, 5], "target": {"rank": 2}, "observed": 800}
CASES = {
    **{name: spec(problem__shape=[40, 30], factorization__depth=3, optimizer=o) for name, o in OPTIMIZERS.items()},
    "float32": spec(problem__shape=[40, 30], factorization__depth=4, dtype="float32"),
    "depth1": spec(problem__shape=[60, 60], factorization__depth=1),
    "cp": spec(problem=TENSOR, factorization={"kind": "cp", "components": 100}, loss="mse"),
    "linear": spec(problem=TENSOR, factorization={"kind": "linear"}, init=None, optimizer=OPTIMIZERS["group_rmsprop"]),
    "sensing": spec(problem={"kind": "matrix_sensing", "shape": [30, 30], "target": {"rank": 1}, "observed": 40}, factorization__depth=2),
}


@pytest.fixture(scope="module", autouse=True)
def _nothing_old_is_looked_at():
    """Of all that other tests have made, nothing is looked at again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def held() -> dict[int, int]:
    """Bytes of every tensor's storage, by its address."""
    gc.collect()
    storages = [t.untyped_storage() for t in gc.get_objects() if type(t) is torch.Tensor]
    return {s.data_ptr(): s.nbytes() for s in storages}


@pytest.mark.parametrize("name", CASES)
def test_lanes_take_about_what_planning_says(name):
    # A data set of its own for each lane: nothing is shared.
    specs = [CASES[name].model_copy(update={"seed": n, "problem": CASES[name].problem.model_copy(update={"seed": n})}) for n in range(40)]
    before = held()
    preparer = Preparer({})
    lanes = Lanes([preparer.prepare(t) for t in trials(specs)], torch.device("cpu"))
    engine = create("batched")
    engine.advance(lanes, np.full(40, 10), np.full(40, -np.inf), 10)
    taken = sum(size for address, size in held().items() if address not in before)
    # Losses of a block of steps are kept whatever the lanes' size.
    said = 40 * (lane_cost(specs[0]).bytes + measurement_bytes(specs[0]))
    assert 0.9 * taken < said < 1.2 * taken, f"{said / taken:.2f} of what is taken"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CASES)
def test_lanes_take_about_as_much_of_a_gpu(name):
    specs = [CASES[name].model_copy(update={"seed": n, "problem": CASES[name].problem.model_copy(update={"seed": n})}) for n in range(500)]
    lanes_of = Preparer({}).prepare
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    lanes = Lanes([lanes_of(t) for t in trials(specs)], torch.device("cuda"))
    engine = create("batched")
    for _ in range(4):
        engine.advance(lanes, lanes.step + 10, np.full(500, -np.inf), 10)
    taken = torch.cuda.max_memory_allocated() - before
    said = 500 * (lane_cost(specs[0]).bytes + measurement_bytes(specs[0]))
    assert taken < 1.25 * said, f"{said / taken:.2f} of what is taken"
