"""The memory that lanes take of a GPU against the memory that planning counts on."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from benchmarks.gpu.cases import Case, Finding, Section
from tests.contract.sizes import SIZES, larger
from workloads.engines.base import create
from workloads.engines.choice import chosen, why_not_fused
from workloads.engines.lanes import Lanes, Prepared
from workloads.training.preparing import Preparer
from workloads.trial import Trial, lane_cost, measurement_bytes

ROOM = 1 << 29
"""Bytes of lanes: beside them what libraries keep for themselves does not count."""
DISTINCT = 64
"""Data sets that lanes have in turn. They hold a copy each."""
MOST, LEAST = 1.25, 0.25
"""What lanes may take of what was planned: a worker fills four fifths of its GPU, and should not leave most of it empty."""
STEPS, CALLS = 10, 4
"""Enough for graphs of blocks to be made."""


def cases(device: torch.device) -> Sequence[Case]:
    """Every sort of trial, on every engine that can train it."""
    found = []
    for name in SIZES:
        (one,) = larger(name, 1)
        engines = [chosen("batched", [one])]
        if why_not_fused(one, cuda=device.type == "cuda") is None:
            engines.append("fused")
        found += [Case(f"{name}, {engine}", partial(_memory, name, engine, device)) for engine in engines]
    return found


def _memory(name: str, engine: str, device: torch.device) -> Finding:
    """The most that was allocated for lanes, graphs included, and what the plan has for them."""
    prepare = Preparer({}).prepare
    starts = [prepare(Trial("", spec)) for spec in larger(name, DISTINCT)]
    each = lane_cost(starts[0].spec).bytes + measurement_bytes(starts[0].spec)
    count = -(-ROOM // each)
    # Libraries allocate at their first use what they keep.
    _allocated(starts, engine, device)
    taken = _allocated([starts[n % DISTINCT] for n in range(count)], engine, device)
    planned = count * each
    values = {"lanes": count, "planned, MB": planned / 1e6, "taken, MB": taken / 1e6, "taken / planned": taken / planned}
    return Finding(values, "" if LEAST < taken / planned < MOST else f"{taken / planned:.2f} of what was planned")


def _allocated(starts: list[Prepared], engine: str, device: torch.device) -> int:
    """Bytes that were allocated at once while such lanes were trained."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    lanes, machine = Lanes(starts, device), create(engine)
    never = np.full(len(lanes), -np.inf)
    for _ in range(CALLS):
        machine.advance(lanes, lanes.step + STEPS, never, STEPS)
    return torch.cuda.max_memory_allocated(device) - before


SECTION = Section(
    "memory",
    f"What `torch.cuda.max_memory_allocated` says of lanes of about {ROOM >> 20} MiB against the plan's `lane_cost`. It fails outside "
    f"{LEAST:g} to {MOST:g}: a worker that plans for four fifths of its GPU would run out of it, or leave most of it empty.",
    cases,
    needs_cuda="a CPU does not count what tensors take; tests/workloads/test_memory.py does",
)
