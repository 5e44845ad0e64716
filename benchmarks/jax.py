"""Us against what a researcher would write instead: JAX's ``jit(vmap(scan(grad)))``, on the same cores.

    python -m benchmarks.jax [--rows NAME] [--lanes 64 1000] [--seconds 1] [-o jax.json]

Each row trains the same lanes from the same starts in float64, by JAX and by the engine that planning chooses: deep matrices and CP by
kernels written by hand, the same products and Tucker by kernels that are written from a trace of one run. Both are compiled beforehand,
take turns, and are held to the same numbers; rates are medians of five, and on the same number of cores. We check every step's loss,
JAX's loop does not. JAX is needed by this program alone: ``pip install -c constraints.txt -e '.[benchmarks]'``.
"""

from __future__ import annotations

import argparse
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
from torch import Tensor

from benchmarks.engines import FOREVER
from benchmarks.report import report
from workloads.engines.base import create
from workloads.engines.choice import choose
from workloads.engines.lanes import Lanes
from workloads.factorizations import Factorization
from workloads.training.preparing import Preparer
from workloads.trial import Trial, TrialSpec

REPEATS = 5
UNROLL = 8
"""Steps of JAX's scan that are one turn of its loop: the best of 1, 4, 8 and 16 on 2x2 matrices."""
AGREE = 1e-8


class TracedMatrix(Factorization):
    """A deep matrix as a user would write it: W = W_3 W_2 W_1, all of the matrix's shape."""

    kind = "traced_matrix"
    example = "{kind: traced_matrix}"

    def shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {f"W{n}": shape for n in (1, 2, 3)}

    def product(self, W1: Tensor, W2: Tensor, W3: Tensor) -> Tensor:  # noqa: N803
        return W3 @ W2 @ W1


@dataclass(frozen=True)
class Row:
    """What is measured: a spec, and the product of one run in JAX's numpy."""

    name: str
    spec: TrialSpec
    product: Callable[..., Any]


def spec(shape: list[int], observed: int, **factorization: Any) -> TrialSpec:
    """Completion of what has rank one, or sensing of a vector of two entries, by gradient descent."""
    kind = {1: "vector_sensing", 2: "matrix_completion"}.get(len(shape), "tensor_completion")
    target = {"sparsity": 2} if len(shape) == 1 else {"rank": 1}
    return TrialSpec.model_validate(
        {
            "problem": {"kind": kind, "shape": shape, "target": {**target, "frobenius": 1.0}, "observed": observed},
            "factorization": factorization,
            "init": {"kind": "gaussian", "scale": 0.3},
            "optimizer": {"kind": "gd", "lr": 1e-3},
            "stop": {"steps": FOREVER},
        }
    )


def rows() -> list[Row]:
    """What is measured by default."""
    import jax.numpy as jnp

    def deep(a: Any, b: Any, c: Any) -> Any:
        return c @ b @ a

    def cp(a: Any, b: Any, c: Any) -> Any:
        return jnp.einsum("ir,jr,kr->ijk", a, b, c)

    def tucker(core: Any, a: Any, b: Any, c: Any) -> Any:
        return jnp.einsum("abc,ia,jb,kc->ijk", core, a, b, c)

    def diagonal(u: Any, v: Any) -> Any:
        return u**3 - v**3

    def convolutional(*filters: Any) -> Any:
        out, *others = filters
        places = jnp.arange(len(out))
        for w in others:
            out = out[(places[:, None] - places) % len(out)] @ w / len(out) ** 0.5
        return out

    found = []
    for n in (8, 32):
        found.append(Row(f"diagonal {n} depth 3, traced", spec([n], n // 2, kind="diagonal", depth=3), diagonal))
        found.append(Row(f"convolutional {n} depth 2, traced", spec([n], n // 2, kind="convolutional", depth=2), convolutional))
    for n in (2, 4, 8, 16, 32):
        found.append(Row(f"matrix {n}x{n}, by hand", spec([n, n], n * n * 3 // 4, kind="deep_matrix", depth=3), deep))
        found.append(Row(f"matrix {n}x{n}, traced", spec([n, n], n * n * 3 // 4, kind="traced_matrix"), deep))
    found.append(Row("CP 8x8x8, by hand", spec([8, 8, 8], 384, kind="cp", components=16), cp))
    sizes = [(n, rank) for n in (4, 8) for rank in (2, 3, 4)]
    tensors = {f"Tucker {n}x{n}x{n} ranks {r}, traced": spec([n] * 3, n**3 * 3 // 4, kind="tucker", ranks=[r] * 3) for n, r in sizes}
    return found + [Row(name, one, tucker) for name, one in tensors.items()]


class Ours:
    """Our lanes, and how to train them."""

    def __init__(self, spec: TrialSpec, count: int) -> None:
        preparer = Preparer({})
        prepared = [preparer.prepare(Trial("", spec.model_copy(update={"seed": n}))) for n in range(count)]
        self.engine, self.lanes = choose([spec] * count), Lanes(prepared, torch.device("cpu"))
        self.starts = [p.numpy().copy() for p in self.lanes.params]
        self.problems = [p.problem for p in prepared]
        self._machine, self._never = create(self.engine), np.full(count, -np.inf)

    def train(self, steps: int) -> None:
        """Take so many steps."""
        goal = self.lanes.step + steps
        while (self.lanes.step < goal).any():
            self._machine.advance(self.lanes, goal, self._never, steps)


class Theirs:
    """The same lanes by JAX."""

    def __init__(self, product: Callable[..., Any], starts: list[Any], problems: list[Any], rate: float) -> None:
        import jax
        import jax.numpy as jnp

        self._params = [jnp.asarray(start) for start in starts]
        sensed = problems[0].mask is None
        # A mask, or the measurements, and what is seen by them.
        self._masks = jnp.asarray(np.stack([p.measurements if sensed else p.mask for p in problems]).astype(np.float64))
        self._targets = jnp.asarray(np.stack([p.values if sensed else p.target for p in problems]))

        def loss(params: Any, mask: Any, target: Any) -> Any:
            entries = product(*params).reshape(-1)
            return 0.5 * jnp.sum((mask @ entries - target if sensed else (entries - target) * mask) ** 2)

        def one(params: Any, mask: Any, target: Any, steps: int) -> Any:
            def step(params: Any, _: None) -> Any:
                return [w - rate * g for w, g in zip(params, jax.grad(loss)(params, mask, target), strict=True)], None

            return jax.lax.scan(step, params, None, length=steps, unroll=UNROLL)[0]

        self._many = jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None)), static_argnums=3)

    def train(self, steps: int) -> None:
        """Take so many steps."""
        self._params = self._many(self._params, self._masks, self._targets, steps)
        self._params[0].block_until_ready()

    @property
    def params(self) -> list[Any]:
        """The factors [R, ...]."""
        return [np.asarray(p) for p in self._params]


def measure(row: Row, count: int, seconds: float) -> dict[str, Any]:
    """One row of the table."""
    ours = Ours(row.spec, count)
    theirs = Theirs(row.product, ours.starts, ours.problems, row.spec.optimizer.lr if row.spec.optimizer else 0.0)
    chunks = [_chunk(side, seconds) for side in (ours, theirs)]
    times: list[list[float]] = [[], []]
    for _ in range(REPEATS):
        for side, chunk, kept in zip((ours, theirs), chunks, times, strict=True):
            began = time.perf_counter()
            side.train(chunk)
            kept.append((time.perf_counter() - began) / chunk / count)
    mine, other = (1 / statistics.median(kept) for kept in times)
    return {
        "what": row.name,
        "lanes": count,
        "engine": ours.engine,
        "trial-steps/s": mine,
        "JAX": other,
        "ours/JAX": mine / other,
        "apart": _apart(row, min(count, 8)),
    }


def _chunk(side: Ours | Theirs, seconds: float) -> int:
    """Return the steps, a power of two, that take about so many seconds. JAX compiles for each number of them."""
    steps = 64
    while True:
        side.train(steps)
        began = time.perf_counter()
        side.train(steps)
        if time.perf_counter() - began > seconds / 4:
            return steps
        steps *= 4


def _apart(row: Row, count: int, steps: int = 1000) -> float:
    """Return how far the two are from each other after a thousand steps, relative to the largest entry."""
    ours = Ours(row.spec, count)
    theirs = Theirs(row.product, ours.starts, ours.problems, row.spec.optimizer.lr if row.spec.optimizer else 0.0)
    ours.train(steps)
    theirs.train(steps)
    pairs = list(zip((p.numpy() for p in ours.lanes.params), theirs.params, strict=True))
    apart = max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)
    if apart > AGREE:
        raise RuntimeError(f"{row.name}: the two do not train the same thing, they are {apart:.1e} apart")
    return apart


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--lanes", type=int, nargs="+", default=[64, 1000], help="how many lanes at once")
    parser.add_argument("--seconds", type=float, default=0.5, help="about how long each repetition takes")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    _stay_on_one_core()
    try:
        import jax
    except ModuleNotFoundError:
        sys.exit("JAX is not installed: pip install -c constraints.txt -e '.[benchmarks]'")
    jax.config.update("jax_enable_x64", True)
    table = []
    for row in rows():
        for count in args.lanes if args.rows in row.name else ():
            table.append(measure(row, count, args.seconds))
            print(f"{row.name}, {count} lanes: {table[-1]['ours/JAX']:.2f}", file=sys.stderr, flush=True)
    report("jax", table, args.output)


def _stay_on_one_core() -> None:
    """Give both one core: threads that JAX starts later stay on it."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


if __name__ == "__main__":
    main()
