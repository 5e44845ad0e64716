"""The memory model of lanes against the memory that tensors really take."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from tests.contract.sizes import SIZES, larger
from tests.specs import trials
from workloads.engines.base import create
from workloads.engines.choice import chosen
from workloads.engines.lanes import Lanes
from workloads.factorizations import Factorization
from workloads.training.preparing import Preparer
from workloads.trial import lane_cost, measurement_bytes


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


@pytest.mark.parametrize("name", SIZES)
def test_lanes_take_about_what_planning_says(name):
    specs = larger(name, 40)
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
