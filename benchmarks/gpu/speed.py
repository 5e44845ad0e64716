"""How fast each row of docs/performance.md trains on a device, and how that compares with what the device can do.

A GPU is hardly busy with the lanes of those rows. So each shape is measured once more with as many lanes as fill it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from benchmarks.engines import engine_rate, flops, rows
from benchmarks.gpu.cases import Case, Finding, Section
from benchmarks.gpu.limits import limit, rates
from workloads.engines.choice import choose, why_not_fused
from workloads.trial import TrialSpec, lane_cost

SECONDS = 0.3
"""How long each of three repetitions takes, about."""
MOST_LANES, MOST_BYTES = 1 << 17, 1 << 30
"""What fills a GPU: a lane for each thread that it can have, or as many as a gibibyte holds."""
MUCH_SLOWER = 2.0
"""A choice of engine is wrong if the other one is faster by this."""


def cases(device: torch.device) -> Sequence[Case]:
    """A case a row, and on a GPU one more a shape."""
    found = {(row.name, row.lanes): row.spec for row in rows()}
    if device.type == "cuda":
        found |= {(row.name, _filling(row.spec)): row.spec for row in rows()}
    return [Case(f"{name}, {lanes} lanes", partial(_speed, spec, lanes, device)) for (name, lanes), spec in found.items()]


def _filling(spec: TrialSpec) -> int:
    return min(MOST_LANES, MOST_BYTES // lane_cost(spec).bytes)


def _speed(spec: TrialSpec, lanes: int, device: torch.device) -> Finding:
    """The rate of every engine that can train such lanes, and of what the device can do by the one that planning chooses."""
    cuda = device.type == "cuda"
    planned = choose([spec] * lanes, rates(device), cuda=cuda)
    engines = ["batched"] if why_not_fused(spec, cuda=cuda) else ["fused", "batched"]
    found = {engine: engine_rate(spec, lanes, engine, SECONDS, device=device) for engine in engines}
    rate, first = found[planned]
    least, by = limit(spec, lanes, planned, device)
    others = {f"{engine}, trial-steps/s": found[engine][0] for engine in engines if engine != planned}
    values = {
        "engine": planned,
        "trial-steps/s": rate,
        "GFLOP/s": rate * flops(spec) / 1e9,
        "of the limit": least * rate / lanes,
        "limit": by,
        "first step, s": first,
        **others,
    }
    wrong = [f"planning chose {planned}: {name} {other:.3g}" for name, other in others.items() if other > MUCH_SLOWER * rate]
    return Finding(values, "; ".join(wrong))


SECTION = Section(
    "speed",
    "Trial-steps per second by the engine that planning chooses with rates measured just before, and by the other one. *Of the limit* is the "
    "share of the least time a step could take: the formulas' arithmetic at the rate of a large matrix product of the same precision or, for "
    "the batched engine, all numbers that a step touches at the rate of a copy of that size, or its kernels at the rate of empty ones in a graph, "
    "whichever is longest. The fused engine on a GPU has a thread for each lane, so that few lanes use little of it. It fails if lanes "
    f"diverge, or if the other engine is {MUCH_SLOWER:g} times as fast as the one that was chosen.",
    cases,
)
