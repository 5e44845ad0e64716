"""How fast this machine is: a probe of less than a second for the constants of `workloads.engines.costs`, kept in a file per machine.

Reading what is kept needs no torch, so that planning can; measuring does.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads import caches
from workloads.caches import read_cache, write_cache
from workloads.engines.rates import DEFAULTS, Rates

if TYPE_CHECKING:
    import torch

    from workloads.engines.base import Engine
    from workloads.engines.lanes import Lanes

VERSION = 3
"""Raised whenever the engines or the probe change so much that what was kept is wrong."""
PROBE_SECONDS = 0.03
"""How long each measurement goes on."""
ROUNDS = 20
"""How often constants are fitted in turn: by then nothing changes any more."""
ATTEMPTS = 3
"""How often each measurement is made, a while apart: what else runs on the machine can only make it longer."""
Timer = Callable[[str, Any, int, Any], float]
"""Tells the seconds of a step: of an engine, on lanes of a spec, on so many of them, on a device."""


@dataclass(frozen=True)
class Machine:
    """What a worker computes on: ``device`` (``cpu`` or ``cuda``), its name, the bytes of memory it has for packs, and its rates."""

    device: str
    name: str
    memory: int
    rates: Rates


def cache_file() -> Path:
    """Where measured rates are kept."""
    return caches.cache_file("rates.json")


def known_rates(device: str = "cpu", name: str | None = None) -> Rates | None:
    """Return the rates measured on this machine before, or ``None``."""
    found = read_cache(cache_file()).get(_key(device, name or processor()))
    if not isinstance(found, dict):
        return None
    try:
        return Rates(**{f.name: float(found[f.name]) for f in fields(Rates) if f.name != "source"}, source=str(found["source"]))
    except (KeyError, TypeError, ValueError):
        # Written by another version, or by hand.
        return None


def measured_rates(device: torch.device, name: str, timer: Timer | None = None) -> Rates:
    """Return the rates of ``device``, called ``name``: those kept, or measured now, by ``timer`` or else `step_timed`, and kept."""
    rates = known_rates(device.type, name)
    if rates is None:
        rates = probe(device, name, timer or step_timed)
        # A home that cannot be written to costs a probe each time, not the sweep.
        with suppress(OSError):
            _keep(_key(device.type, name), rates)
    return rates


def processor() -> str:
    """Return the processor's name, as the operating system gives it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _key(device: str, name: str) -> str:
    return "|".join((str(VERSION), platform.node(), device, name, _version("torch"), _version("warp-lang")))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _keep(key: str, rates: Rates) -> None:
    write_cache(cache_file(), {**read_cache(cache_file()), key: asdict(rates)})


def probe(device: torch.device, name: str, timer: Timer) -> Rates:
    """Return the rates of ``device``, called ``name``, from the times of engines on problems that each show one constant above all."""
    import torch

    from workloads.engines.choice import why_not_fused

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rates = replace(DEFAULTS[device.type], source=f"measured on {name}")
        tiny, middling, large = (probe_spec(size) for size in (2, 8, 128))
        many = 64 if device.type == "cpu" else 1 << 14
        # The batched engine: a lone tiny lane is all calls, many tiny lanes all products, large ones all arithmetic; and those between,
        # for which there are two engines to choose from on a core, are above all numbers that go from and to memory.
        probes = [("call", "batched", tiny, 1), ("product", "batched", tiny, many), ("batched", "batched", large, many // 16)]
        probes += [("touched", "batched", middling, many)] if device.type == "cpu" else []
        if why_not_fused(middling, cuda=device.type == "cuda") is None:
            probes += [("latency", "fused", tiny, 32)] if device.type == "cuda" else []
            probes += [("fused", "fused", middling, many)]
        attempts = [[timer(engine, spec, count, device) for _, engine, spec, count in probes] for _ in range(ATTEMPTS)]
        seconds = [min(times) for times in zip(*attempts, strict=True)]
        # Each constant given the others, which are better known each time.
        for _ in range(ROUNDS):
            for (constant, engine, spec, count), taken in zip(probes, seconds, strict=True):
                rates = _fit(rates, getattr(DEFAULTS[device.type], constant), constant, engine, taken, spec, count)
        return rates
    finally:
        torch.set_num_threads(threads)


def probe_spec(size: int) -> Any:
    """Return the spec of a lane that is timed: a square matrix of ``size`` as a product of three."""
    from workloads.trial import TrialSpec

    return TrialSpec.model_validate(
        {
            "problem": {"kind": "matrix_completion", "shape": [size, size], "target": {"rank": 1}, "observed": 0.5},
            "factorization": {"kind": "deep_matrix", "depth": 3},
            "init": {"kind": "gaussian", "scale": 0.1},
            "optimizer": {"kind": "gd", "lr": 1e-9},
            "stop": {"steps": 1},
        }
    )


def step_timed(engine: str | Engine, spec: Any, count: int, device: torch.device, clock: Callable[[], float] | None = None) -> float:
    """Seconds by ``clock`` that a step of ``count`` lanes takes, the best of several attempts.

    On a core that is by default this thread's own time, which stands still while another process has the core.
    """
    import numpy as np

    from workloads.engines.base import create
    from workloads.engines.lanes import Lanes, Prepared

    clock = clock or (time.thread_time if device.type == "cpu" else time.perf_counter)
    one = Prepared(spec, spec.problem.realize({}), spec.initial_factors({}))
    lanes: Lanes = Lanes([one] * count, device)
    machine = create(engine) if isinstance(engine, str) else engine

    def advance(steps: int) -> None:
        target = lanes.step + steps
        while (lanes.step < target).any():
            machine.advance(lanes, target, np.full(count, -np.inf), steps)

    def timed(steps: int) -> float:
        began = clock()
        advance(steps)
        return clock() - began

    advance(2)
    steps, seconds = 1, 0.0
    while seconds < PROBE_SECONDS / 4:
        steps *= 2
        seconds = timed(steps)
    return min(seconds, *(timed(steps) for _ in range(3))) / steps


def _fit(rates: Rates, default: float, constant: str, engine: str, seconds: float, spec: Any, count: int) -> Rates:
    """``rates`` with the ``constant`` for which the model says ``seconds`` for a step. The model is linear in each constant."""
    from workloads.engines.costs import step_seconds

    def having(value: float) -> Rates:
        return Rates(**{**asdict(rates), constant: value})

    none = step_seconds(engine, [spec] * count, having(0.0))
    one = step_seconds(engine, [spec] * count, having(1.0)) - none
    # A probe that was disturbed, or a model that does not fit, may be off by as much but not by orders of magnitude.
    return having(min(max((seconds - none) / one, default / 20), default * 20))
