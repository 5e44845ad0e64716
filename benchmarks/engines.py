"""How fast engines train: trial-steps and arithmetic per second, against the machine's own matrix product and against a plain loop.

    python -m benchmarks.engines [--rows NAME] [--seconds 1.5] [-o engines.json]

Each row trains lanes of one shape with the engine that planning chooses, on one core or on all of them, the loss checked at every step. In
the same process it measures a large matrix product of the row's precision, and the loop a researcher would write: one trial,
autograd, ``torch.optim``. Rates are medians of three; arithmetic counts the products and gradients of what is observed, not what an
engine does besides.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import report
from workloads.engines.base import create
from workloads.engines.choice import choose
from workloads.engines.lanes import Lanes
from workloads.training.preparing import Preparer
from workloads.trial import Trial, TrialSpec

REPEATS = 3
FOREVER = 1 << 40
MOST_STARTS = 1024
"""So many lanes start each from a place of their own; what starts anywhere takes as long."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Row:
    """What is measured: a shape, a number of lanes, and how many cores train such packs at once."""

    name: str
    spec: TrialSpec
    lanes: int
    cores: int = 1


def matrix(rows: int, columns: int | None = None, depth: int = 3) -> TrialSpec:
    """Completion of a matrix of which three quarters are observed, by full-width factors, in float64."""
    columns = columns or rows
    return TrialSpec.model_validate(
        {
            "problem": {
                "kind": "matrix_completion",
                "shape": [rows, columns],
                "target": {"rank": 1, "frobenius": 1.0},
                "observed": rows * columns * 3 // 4,
            },
            "factorization": {"kind": "deep_matrix", "depth": depth},
            "init": {"kind": "gaussian", "product_scale": 1e-3},
            "optimizer": {"kind": "gd", "lr": 1e-5},
            "stop": {"steps": FOREVER},
        }
    )


def tensor(order: int, observed: int) -> TrialSpec:
    """The second figure of arXiv 2102.09972: completion of an 8 x ... x 8 tensor by the largest CP factorization, in float32."""
    return TrialSpec.model_validate(
        {
            "problem": {
                "kind": "tensor_completion",
                "shape": [8] * order,
                "target": {"rank": 1, "frobenius": 1.0},
                "observed": observed,
            },
            "factorization": {"kind": "cp"},
            "init": {"kind": "gaussian", "scale": 1e-2},
            "optimizer": {"kind": "group_rmsprop", "lr": 1e-5},
            "loss": "mse",
            "stop": {"steps": FOREVER},
            "dtype": "float32",
        }
    )


def rows() -> list[Row]:
    """What is measured by default."""
    both = os.cpu_count() or 1
    small = [Row("matrix 2x2 depth 3", matrix(2), n) for n in (1, 64, 1000)]
    small += [Row(f"matrix 2x2 depth {depth}", matrix(2, depth=depth), 64) for depth in (2, 4)]
    middle = [Row(f"matrix {n}x{n} depth 3", matrix(n), 64) for n in (3, 4, 5, 6, 7, 8, 10, 11, 13, 16, 20, 24, 29, 32)]
    middle += [Row(f"matrix {m}x{n} depth 3", matrix(m, n), 64) for m, n in ((7, 5), (5, 31), (30, 8))]
    large = [Row(f"matrix {n}x{n} depth 3", matrix(n), lanes) for n, lanes in ((64, 32), (100, 32), (128, 32), (160, 16), (256, 8))]
    third = [Row(f"tensor 8x8x8, {k} observed", tensor(3, k), n) for k, n in ((100, 32), (511, 32), (511, 256), (511, 1024))]
    fourth = [Row(f"tensor 8x8x8x8, {k} observed", tensor(4, k), 16) for k in (100, 500, 1000)]
    fourth += [Row("tensor 8x8x8x8, 4095 observed", tensor(4, 4095), n, both) for n in (4, 32, 128)]
    return small + middle + large + third + fourth


def flops(spec: TrialSpec) -> int:
    """Operations of one step that the formulas ask for: three products per factor but the first, or three per observed entry and component."""
    shapes = list(spec.factor_shapes.values())
    if spec.factorization.kind == "cp":
        return 6 * (spec.problem.observations() or math.prod(spec.shape)) * (spec.factorization.terms(spec.shape) or 1)
    return sum(6 * spec.shape[1] * out * into for out, into in shapes[1:])


def matrix_product_rate(dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product on one core."""
    torch.set_num_threads(1)
    size = 1024
    a, b = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 * median_rate(lambda calls: [torch.mm(a, b, out=out) for _ in range(calls)], 0.3)


def plain_rate(spec: TrialSpec) -> float:
    """Steps per second of one trial in an eager autograd loop."""
    torch.set_num_threads(1)
    problem = spec.problem.realize({})
    assert problem.mask is not None
    assert problem.target is not None
    dtype = getattr(torch, spec.dtype)
    where = torch.from_numpy(np.flatnonzero(problem.mask))
    seen = torch.from_numpy(problem.target).to(dtype)[where]
    params = [torch.from_numpy(f).to(dtype).requires_grad_() for f in spec.initial_factors({})]
    optimizer = torch.optim.SGD(params, lr=1e-5)
    letters = "ijkl"[: len(params)]
    form = ",".join(f"{x}r" for x in letters) + "->" + letters

    def steps(count: int) -> None:
        for _ in range(count):
            if spec.factorization.kind == "cp":
                product = torch.einsum(form, *params)
            else:
                product = params[0]
                for factor in params[1:]:
                    product = factor @ product
            loss = 0.5 * (product.reshape(-1)[where] - seen).square().sum()
            if loss.item() < 1e-300:
                return
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return median_rate(steps, 0.3)


def engine_rate(
    spec: TrialSpec, count: int, engine: str, seconds: float, barrier: Any = None, device: torch.device = CPU
) -> tuple[float, float]:
    """Trial-steps per second of ``count`` lanes on one core, or on a GPU, and the seconds until the first step, compiling included."""
    torch.set_num_threads(1)
    preparer = Preparer({})
    starts = [preparer.prepare(Trial("", spec.model_copy(update={"seed": n}))) for n in range(min(count, MOST_STARTS))]
    lanes = Lanes([starts[n % len(starts)] for n in range(count)], device)
    machine, never = create(engine), np.full(count, -np.inf)

    def steps(number: int) -> None:
        goal = lanes.step + number
        while (lanes.step < goal).any():
            machine.advance(lanes, goal, never, number)
        if not np.isfinite(lanes.loss).all():
            raise RuntimeError(f"{spec.problem.kind} {spec.shape} diverges: its speed means nothing")

    began = time.perf_counter()
    steps(1)
    first = time.perf_counter() - began
    if barrier is not None:
        barrier.wait()
    return count * median_rate(steps, seconds), first


def median_rate(work: Callable[[int], object], seconds: float) -> float:
    """Repetitions per second: the number that takes about ``seconds`` is found first."""
    number = 1
    while True:
        began = time.perf_counter()
        work(number)
        taken = time.perf_counter() - began
        if taken > seconds / 4:
            break
        number *= 2
    number = max(1, int(number * seconds / taken))
    rates = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work(number)
        rates.append(number / (time.perf_counter() - began))
    return statistics.median(rates)


def _in_process(connection: Any, barrier: Any, *arguments: Any) -> None:
    connection.send(engine_rate(*arguments, barrier))


def measure(row: Row, seconds: float) -> dict[str, Any]:
    """One row of the table."""
    engine = choose([row.spec] * row.lanes)
    product = matrix_product_rate(getattr(torch, row.spec.dtype)) * row.cores
    if row.cores == 1:
        rate, first = engine_rate(row.spec, row.lanes, engine, seconds)
    else:
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(row.cores)
        pipes = [context.Pipe(duplex=False) for _ in range(row.cores)]
        workers = [
            context.Process(target=_in_process, args=(sender, barrier, row.spec, row.lanes // row.cores, engine, seconds))
            for _, sender in pipes
        ]
        for worker in workers:
            worker.start()
        found = [receiver.recv() for receiver, _ in pipes]
        for worker in workers:
            worker.join()
        rate, first = sum(r for r, _ in found), max(f for _, f in found)
    plain = plain_rate(row.spec)
    work = rate * flops(row.spec)
    return {
        "what": row.name,
        "lanes": row.lanes,
        "cores": row.cores,
        "engine": engine,
        "trial-steps/s": rate,
        "GFLOP/s": work / 1e9,
        "of matrix product": work / product,
        "plain loop, steps/s": plain,
        "ours/plain": rate / plain,
        "first step, s": round(first, 2),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--seconds", type=float, default=1.5, help="about how long each repetition takes")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    table = []
    for row in rows():
        if args.rows in row.name:
            table.append(measure(row, args.seconds))
            print(f"{row.name}: {table[-1]['trial-steps/s']:.3g}", file=sys.stderr, flush=True)
    report("engines", table, args.output)


if __name__ == "__main__":
    main()
