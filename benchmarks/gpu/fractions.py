"""Several workers that share one device: each trains as if it were alone, and together they do no less than one would."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.cases import Case, Finding, Section
from benchmarks.gpu.training import TOLERANCE, advance, difference, lanes_of, learning
from workloads.engines.base import create
from workloads.engines.choice import why_not_fused
from workloads.trial import TrialSpec

WORKERS = {"cuda": (1, 2, 4), "cpu": (2,)}
"""How many share the device in turn. Four is what `resources.gpus: auto` gives a GPU for small packs."""
LANES, STEPS = 64, 200
SECONDS = {"cuda": 3.0, "cpu": 0.5}
PATIENCE = 120.0
"""Seconds that workers may take to start."""
LOSS = 0.9
"""What workers together have to do of what one does alone. On a CPU, whose cores others use too, this is not held."""


def cases(device: torch.device) -> Sequence[Case]:
    """A small pack for each engine."""
    found = [Case(f"matrix 16x16 depth 3, {LANES} lanes, batched", partial(_shared, learning(16), "batched", device))]
    if why_not_fused(learning(2), cuda=device.type == "cuda") is None:
        found.append(Case(f"matrix 2x2 depth 3, {LANES} lanes, fused", partial(_shared, learning(2), "fused", device)))
    return found


def _shared(spec: TrialSpec, engine: str, device: torch.device) -> Finding:
    """The trial-steps per second of all workers together, by how many they are."""
    truth = advance(create("batched"), lanes_of(_specs(spec), torch.device("cpu")), STEPS).loss
    rates: dict[int, float] = {}
    apart = 0.0
    for workers in WORKERS[device.type]:
        done = _together(workers, spec, engine, device)
        rates[workers] = sum(rate for rate, _ in done)
        apart = max(apart, *(difference(losses, truth) for _, losses in done))
    values = {f"{n} at once, trial-steps/s": rate for n, rate in rates.items()} | {"difference": apart}
    slower = [n for n, rate in rates.items() if device.type == "cuda" and rate < LOSS * rates[1]]
    wrong = [f"{n} at once do less than one" for n in slower]
    wrong += [f"losses are off by {apart:.1g}"] if not apart <= TOLERANCE else []
    return Finding(values, "; ".join(wrong))


def _specs(spec: TrialSpec) -> list[TrialSpec]:
    return [spec.model_copy(update={"seed": n}) for n in range(LANES)]


def _together(workers: int, spec: TrialSpec, engine: str, device: torch.device) -> list[tuple[float, Any]]:
    """What each of several workers, which train at the same time, says. Raises `RuntimeError` if one says nothing."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(workers)
    pipes = [context.Pipe(duplex=False) for _ in range(workers)]
    arguments = (barrier, spec, engine, device, workers)
    processes = [context.Process(target=_work, args=(sender, *arguments), daemon=True) for _, sender in pipes]
    for process, (_, sender) in zip(processes, pipes, strict=True):
        process.start()
        sender.close()
    try:
        found = [receiver.recv() for receiver, _ in pipes]
    except EOFError:
        raise RuntimeError(f"one of {workers} workers ended without a result") from None
    finally:
        for process in processes:
            process.kill()
            process.join()
    return found


def _work(connection: Any, barrier: Any, spec: TrialSpec, engine: str, device: torch.device, workers: int) -> None:
    """One worker: the losses after some steps, then as many steps as there is time for."""
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1 / workers, device)
    machine, lanes = create(engine), lanes_of(_specs(spec), device)
    losses = advance(machine, lanes, STEPS).loss.copy()
    barrier.wait(PATIENCE)
    began, before = time.perf_counter(), int(lanes.step.sum())
    while (taken := time.perf_counter() - began) < SECONDS[device.type]:
        advance(machine, lanes, STEPS)
    connection.send(((int(lanes.step.sum()) - before) / taken, np.asarray(losses)))


SECTION = Section(
    "fractions",
    f"Workers in processes of their own that train {LANES} lanes each at the same time, with their share of the memory: together they "
    f"have to do {LOSS:.0%} of what one does alone at least, and each what the CPU computes.",
    cases,
)
