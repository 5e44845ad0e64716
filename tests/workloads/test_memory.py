"""The memory model of lanes against the memory that tensors really take."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from tests.contract.references import FACTORIZATIONS, LARGER, LOSSES, OPTIMIZERS, pairs, spec
from tests.specs import trials
from workloads.engines.base import create
from workloads.engines.choice import chosen
from workloads.engines.lanes import Lanes
from workloads.factorizations import Factorization
from workloads.training.preparing import Preparer
from workloads.trial import lane_cost, measurement_bytes

CASES = {
    **{"-".join((*pair, loss)): spec(*pair, loss=loss) for pair in pairs() for loss in LOSSES},
    **{
        f"{factorization}-{optimizer}": spec("matrix_completion" if 2 in row.keys else "tensor_completion", factorization, optimizer)
        for factorization, row in FACTORIZATIONS.items()
        for optimizer in OPTIMIZERS
        if row.product is not None
    },
    "float32": spec("matrix_completion", "deep_matrix", dtype="float32"),
    "depth1": spec("matrix_completion", "deep_matrix", loss="mse", keys={"depth": 1}),
    "large": spec("tensor_completion", "cp", keys={"components": 100}),
}


def lanes_of(name, count):
    """Trials of a case at a size that counts, with a data set of their own each: nothing is shared."""
    one = CASES[name]
    shape = FACTORIZATIONS[one.factorization.kind].shape(len(one.shape), LARGER)
    problem = one.problem.model_copy(update={"shape": shape, "observed": 45})
    return [one.model_copy(update={"seed": n, "problem": problem.model_copy(update={"seed": n})}) for n in range(count)]


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
    specs = lanes_of(name, 40)
    before = held()
    preparer = Preparer({})
    lanes = Lanes([preparer.prepare(t) for t in trials(specs)], torch.device("cpu"))
    engine = create(chosen("batched", specs))
    engine.advance(lanes, np.full(40, 10), np.full(40, -np.inf), 10)
    taken = sum(size for address, size in held().items() if address not in before)
    # Losses of a block of steps are kept whatever the lanes' size.
    said = 40 * (lane_cost(specs[0]).bytes + measurement_bytes(specs[0]))
    # Solvers and autograd let go of most of what they need before they return, or hold it where nobody sees it.
    seen = not specs[0].factorization.solved and type(specs[0].factorization).program is not Factorization.program
    most = 1.2 if seen else 4.0
    assert 0.9 * taken < said < most * taken, f"{said / taken:.2f} of what is taken"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CASES)
def test_lanes_take_about_as_much_of_a_gpu(name):
    specs = lanes_of(name, 500)
    prepare = Preparer({}).prepare
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    lanes = Lanes([prepare(t) for t in trials(specs)], torch.device("cuda"))
    engine = create(chosen("batched", specs))
    for _ in range(4):
        engine.advance(lanes, lanes.step + 10, np.full(500, -np.inf), 10)
    taken = torch.cuda.max_memory_allocated() - before
    said = 500 * (lane_cost(specs[0]).bytes + measurement_bytes(specs[0]))
    assert taken < 1.25 * said, f"{said / taken:.2f} of what is taken"
