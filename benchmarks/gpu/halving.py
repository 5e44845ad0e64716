"""Running out of memory in the middle of a pack: half of the trials go on, the others wait, and all end as if there had been room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.cases import Case, Finding, Section
from benchmarks.gpu.training import TOLERANCE, difference, learning, memory_of
from workloads.engines.base import Engine, create
from workloads.engines.choice import why_not_fused
from workloads.engines.lanes import Lanes
from workloads.training.loop import train
from workloads.training.recording import Recording
from workloads.training.results import Finished, Notice, TrialResult
from workloads.trial import Trial, TrialSpec, lane_cost

ROOM = {"cuda": 1 << 29, "cpu": 1 << 20}
"""Bytes that the lanes of a pack would take at once, of which there is less than half."""
SHARE = 0.4
STEPS = 100
RECORDING = Recording(("frobenius",), steps=(0, 10, STEPS))


class Narrow:
    """An engine on a device without limits of its own (`workloads.engines.base.Engine`): more lanes than ``room`` fail."""

    def __init__(self, engine: Engine, room: int) -> None:
        self._engine, self._room, self.name = engine, room, engine.name

    def advance(self, lanes: Lanes, until_step: NDArray[np.int64], until_loss: NDArray[np.float64], limit: int) -> NDArray[np.bool_]:
        """See `workloads.engines.base.Engine.advance`."""
        if len(lanes) > self._room:
            raise torch.OutOfMemoryError("more lanes than there is room for")
        return self._engine.advance(lanes, until_step, until_loss, limit)

    def release(self) -> None:
        """See `workloads.engines.base.Engine.release`."""
        self._engine.release()


def cases(device: torch.device) -> Sequence[Case]:
    """A pack for each engine."""
    found = [Case("matrix 64x64 depth 3, batched", partial(_halved, learning(64), "batched", device))]
    if why_not_fused(learning(32), cuda=device.type == "cuda") is None:
        found.append(Case("matrix 32x32 depth 3, fused", partial(_halved, learning(32), "fused", device)))
    return found


def _halved(spec: TrialSpec, engine: str, device: torch.device) -> Finding:
    """Train a pack with room for all of it, and with less."""
    count = max(8, ROOM[device.type] // lane_cost(spec).bytes)
    specs = [spec.model_copy(update={"seed": n, "stop": spec.stop.model_copy(update={"steps": STEPS})}) for n in range(count)]
    truth, _ = _trained(specs, create(engine), device)
    with _less_memory(device):
        narrow = create(engine) if device.type == "cuda" else Narrow(create(engine), int(SHARE * count))
        results, notices = _trained(specs, narrow, device)
    values: dict[str, object] = {"trials": count, "times halved": len(notices)}
    if results.keys() != truth.keys():
        return Finding(values, f"{len(results)} trials of {count} have ended")
    if any((results[key].outcome, results[key].steps) != (truth[key].outcome, truth[key].steps) for key in truth):
        return Finding(values, "trials have ended otherwise")
    values["difference"] = apart = max(difference(results[key].trace.values, truth[key].trace.values) for key in truth)
    if not notices:
        return Finding(values, "memory did not run out")
    return Finding(values, "" if apart <= TOLERANCE else f"results are off by {apart:.1g}")


def _trained(specs: Sequence[TrialSpec], engine: Engine, device: torch.device) -> tuple[dict[str, TrialResult], list[str]]:
    """The results by trial, and what was noticed."""
    events = list(train([Trial(f"t{n}", spec) for n, spec in enumerate(specs)], RECORDING, engine, device=device))
    engine.release()
    results = {r.trial_id: r for event in events if isinstance(event, Finished) for r in event.results}
    return results, [event.text for event in events if isinstance(event, Notice)]


@contextmanager
def _less_memory(device: torch.device) -> Iterator[None]:
    """Let PyTorch have `SHARE` of `ROOM` beside what it holds already."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved(device) + SHARE * ROOM["cuda"]
    torch.cuda.set_per_process_memory_fraction(allowed / memory_of(device), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


SECTION = Section(
    "halving",
    f"A pack whose lanes have {SHARE:.0%} of the memory that they take: it has to be halved, and every trial has to end as it does with room "
    "for all. On a GPU PyTorch's allocator is given less; on a CPU an engine says so.",
    cases,
)
