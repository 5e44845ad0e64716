"""What a device can do at most, measured on it: arithmetic by a large matrix product, memory by a copy, launches by empty kernels."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from benchmarks.engines import flops
from benchmarks.gpu.cases import Case, Finding, Section
from benchmarks.gpu.training import memory_of
from workloads.engines.calibration import probe, step_timed
from workloads.engines.costs import calls
from workloads.engines.lanes import DTYPES
from workloads.engines.rates import Rates
from workloads.trial import ITEM_BYTES, TrialSpec, lane_cost

SECONDS = 0.1
"""How long each measurement goes on, at least."""
SMALLEST_COPY, LARGEST_COPY = 1 << 24, 1 << 30
"""Bytes: what is smaller shows how long a launch takes rather than the memory, what is larger shows nothing new."""
LAUNCHES = 1000


@functools.cache
def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product; of one core, on a CPU."""
    torch.set_num_threads(1)
    size = 4096 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / _seconds(partial(torch.mm, a, b, out=torch.empty_like(a)), device)


@functools.cache
def copy_rate(device: torch.device, size: int) -> float:
    """Bytes read or written per second where ``size`` of them are copied or overwritten again and again: small ones may stay in cache."""
    torch.set_num_threads(1)
    a, b = (torch.zeros(size // 2, dtype=torch.uint8, device=device) for _ in range(2))
    return size / _seconds(partial(b.copy_, a), device)


@functools.cache
def launch_seconds(device: torch.device) -> float:
    """Seconds between kernels that do next to nothing in a graph; on a CPU, between calls into PyTorch."""
    one = torch.zeros(1, device=device)

    def launches() -> None:
        for _ in range(LAUNCHES):
            one.add_(1)

    if device.type != "cuda":
        return _seconds(launches, device) / LAUNCHES
    launches()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launches()
    return _seconds(graph.replay, device) / LAUNCHES


@functools.cache
def rates(device: torch.device) -> Rates:
    """The constants of the cost model, as a worker measures them."""
    return probe(device, device.type, step_timed)


def _constant(device: torch.device, name: str) -> float:
    return float(getattr(rates(device), name))


def limit(spec: TrialSpec, lanes: int, engine: str, device: torch.device) -> tuple[float, str]:
    """Seconds that a step of ``lanes`` takes at least, and what bounds it.

    All engines have to do the arithmetic. The batched one, on a GPU, also passes every number through memory, or through cache where all
    of them fit, and starts a kernel for each operation; the fused one holds them in a kernel for many steps.
    """
    bounds = {"arithmetic": lanes * flops(spec) / product_rate(device, DTYPES[spec.dtype])}
    if engine == "batched" and device.type == "cuda":
        moved = lanes * lane_cost(spec).touched * ITEM_BYTES[spec.dtype]
        bounds["memory"] = moved / copy_rate(device, _copied(moved, device))
        bounds["launches"] = calls(spec) * launch_seconds(device)
    by = max(bounds, key=lambda name: bounds[name])
    return bounds[by], by


def _copied(size: int, device: torch.device) -> int:
    """The size of the copy that is compared with ``size`` bytes: a power of two."""
    return min(max(SMALLEST_COPY, 1 << size.bit_length()), LARGEST_COPY, memory_of(device) // 4)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that ``work`` takes: the best of three, each as often as takes long enough to be timed."""

    def timed(times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    timed(1)
    times = 1
    while (taken := timed(times)) < SECONDS:
        times *= 2
    return min(taken, timed(times), timed(times)) / times


def _cases(device: torch.device) -> Sequence[Case]:
    one_of = "one core" if device.type == "cpu" else "the GPU"

    def said(value: Callable[[], float], unit: str, scale: float) -> Callable[[], Finding]:
        return lambda: Finding({"value": value() / scale, "unit": unit})

    found = [
        Case(f"matrix product of {one_of}, {name}", said(partial(product_rate, device, dtype), "GFLOP/s", 1e9))
        for name, dtype in DTYPES.items()
    ]
    for size, name in ((SMALLEST_COPY, "16 MiB"), (_copied(LARGEST_COPY, device), "as much as matters")):
        found.append(Case(f"copy, {name}", said(partial(copy_rate, device, size), "GB/s", 1e9)))
    found.append(
        Case("launch of a kernel in a graph" if device.type == "cuda" else "call", said(partial(launch_seconds, device), "µs", 1e-6))
    )
    constants = ("call", "product", "batched", "fused", "latency")
    found += [Case(f"cost model: {name}", said(partial(_constant, device, name), "ns", 1e-9)) for name in constants]
    return found


SECTION = Section(
    "limits",
    "What the device can do, by a large matrix product, copies and empty kernels, and the constants of the cost model as a worker measures "
    "them (`workloads.engines.rates`).",
    _cases,
)
