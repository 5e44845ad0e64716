"""Us against what a researcher would write instead: JAX's ``jit(vmap(scan(grad)))``, on the same cores.

    python -m benchmarks.jax [--rows NAME] [--lanes 64 1000] [--seconds 1] [-o jax.json]

Each row trains the same lanes from the same starts, in float64 if it says nothing else, by JAX and by the engine that planning chooses: deep
matrices and CP by kernels written by hand, the same products, Tucker and small hierarchical tensors by kernels that are written from a trace
of one run, large ones by matrix products. Both are compiled beforehand, take turns, and are held to the same numbers, unless steps are
random: JAX draws by its own generator, as who uses it would. Rates are medians of five by the process's own time, and on the same core. We
check every step's loss, JAX's loop does not. JAX is needed by this program alone: ``pip install -c constraints.txt -e '.[benchmarks]'``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
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
from workloads.trial import Trial, TrialSpec, lane_cost

REPEATS = 5
UNROLL = 8
"""Steps of JAX's scan that are one turn of its loop: the best of 1, 4, 8 and 16 on 2x2 matrices."""
AGREE = {"float64": 1e-8, "float32": 1e-3}
FLOPS = 2e9
"""Operations of a step of all lanes up to which there are as many lanes as asked for."""
COMPARED = 1000
"""Steps after which the two are compared, or as many as take `FLOPS` a hundred times."""


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


def spec(
    shape: list[int], observed: int, options: Mapping[str, Any] | None = None, dtype: str = "float64", **factorization: Any
) -> TrialSpec:
    """Completion of what has rank one, or sensing of a vector of two entries, by gradient descent with ``options``."""
    kind = {1: "vector_sensing", 2: "matrix_completion"}.get(len(shape), "tensor_completion")
    target = {"sparsity": 2} if len(shape) == 1 else {"rank": 1}
    return TrialSpec.model_validate(
        {
            "problem": {"kind": kind, "shape": shape, "target": {**target, "frobenius": 1.0}, "observed": observed},
            "factorization": factorization,
            "init": {"kind": "gaussian", "scale": 0.3},
            "optimizer": {"kind": "gd", "lr": 1e-3, **(options or {})},
            "stop": {"steps": FOREVER},
            "dtype": dtype,
        }
    )


HIERARCHICAL = {4: 4, 8: 4, 16: 8, 32: 8, 64: 8, 128: 8, 512: 8}
"""The size of each of four modes, by the widths of a tree."""


def options(observed: int) -> dict[str, Mapping[str, Any]]:
    """What is done besides, by name, where so many entries are observed."""
    return {
        "cosine schedule": {"schedule": {"warmup": 1000, "cosine": 100_000_000, "floor": 0.1}},
        "mini-batches": {"batch": observed // 4},
        "label noise": {"label_noise": 0.1},
    }


def rows() -> list[Row]:
    """What is measured by default."""
    return [*_vectors(), *_matrices(), *_tensors()]


def _vectors() -> Iterator[Row]:
    import jax.numpy as jnp

    def diagonal(u: Any, v: Any) -> Any:
        return u**3 - v**3

    def convolutional(*filters: Any) -> Any:
        out, *others = filters
        places = jnp.arange(len(out))
        for w in others:
            out = out[(places[:, None] - places) % len(out)] @ w / len(out) ** 0.5
        return out

    for n in (8, 32):
        yield Row(f"diagonal {n} depth 3, traced", spec([n], n // 2, kind="diagonal", depth=3), diagonal)
        yield Row(f"convolutional {n} depth 2, traced", spec([n], n // 2, kind="convolutional", depth=2), convolutional)


def _matrices() -> Iterator[Row]:
    def deep(a: Any, b: Any, c: Any) -> Any:
        return c @ b @ a

    for n in (2, 4, 8, 16, 32):
        yield Row(f"matrix {n}x{n}, by hand", spec([n, n], n * n * 3 // 4, kind="deep_matrix", depth=3), deep)
        yield Row(f"matrix {n}x{n}, traced", spec([n, n], n * n * 3 // 4, kind="traced_matrix"), deep)
    for n in (2, 8, 32):
        seen = n * n * 3 // 4 + (n == 2)
        for name, more in options(seen).items():
            yield Row(f"matrix {n}x{n}, {name}", spec([n, n], seen, more, kind="deep_matrix", depth=3), deep)


def _tensors() -> Iterator[Row]:
    import jax.numpy as jnp

    def cp(a: Any, b: Any, c: Any) -> Any:
        return jnp.einsum("ir,jr,kr->ijk", a, b, c)

    def tucker(core: Any, a: Any, b: Any, c: Any) -> Any:
        return jnp.einsum("abc,ia,jb,kc->ijk", core, a, b, c)

    def tree(a: Any, b: Any, c: Any, d: Any, left: Any, right: Any, w: Any) -> Any:
        def joined(one: Any, other: Any) -> Any:
            return (one[:, None, :] * other[None, :, :]).reshape(-1, one.shape[1])

        return ((joined(a, b) @ left) * w[:, 0]) @ (joined(c, d) @ right).T

    yield Row("CP 8x8x8, by hand", spec([8, 8, 8], 384, kind="cp", components=16), cp)
    for width, n in HIERARCHICAL.items():
        dtype = "float32" if width > 100 else "float64"
        one = spec([n] * 4, n**4 // 2, None, dtype, kind="hierarchical", widths=[width] * 2)
        yield Row(f"hierarchical {n}x{n}x{n}x{n} widths {width}{' float32' * (dtype == 'float32')}", one, tree)
    for name, more in options(128).items():
        yield Row(f"hierarchical 4x4x4x4 widths 8, {name}", spec([4] * 4, 128, more, kind="hierarchical", widths=[8, 8]), tree)
        yield Row(f"CP 8x8x8, {name}", spec([8, 8, 8], 128, more, kind="cp", components=16), cp)
    for n in (4, 8):
        for rank in (2, 3, 4):
            one = spec([n] * 3, n**3 * 3 // 4, kind="tucker", ranks=[rank] * 3)
            yield Row(f"Tucker {n}x{n}x{n} ranks {rank}, traced", one, tucker)


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

    def __init__(self, row: Row, ours: Ours) -> None:
        import jax
        import jax.numpy as jnp

        optimizer = row.spec.optimizer
        assert optimizer is not None
        real, count = jnp.dtype(row.spec.dtype), len(ours.problems)
        batch, noise, schedule, rate = optimizer.batch, optimizer.label_noise, optimizer.schedule, optimizer.lr
        self._params = [jnp.asarray(start) for start in ours.starts]
        sensed = ours.problems[0].mask is None
        # A mask, or the measurements, and what is seen by them.
        masks = np.stack([p.measurements if sensed else p.mask for p in ours.problems]).astype(real)
        targets = np.stack([p.values if sensed else p.target for p in ours.problems]).astype(real)
        # Of mini-batches only what is drawn is looked at.
        where = np.stack([np.arange(len(p.values)) if sensed else np.flatnonzero(p.mask) for p in ours.problems])
        self._data = [jnp.asarray(each) for each in (masks, targets, where)]
        self._keys, self._done = jax.random.split(jax.random.key(0), count), 0

        def loss(params: Any, key: Any, mask: Any, target: Any, where: Any) -> Any:
            product = row.product(*params).reshape(-1)
            if batch is not None:
                drawn = where[jax.lax.top_k(jax.random.bits(key, where.shape), batch)[1]]
                return 0.5 * where.shape[0] / batch * jnp.sum((product[drawn] - target[drawn]) ** 2)
            seen = target if noise is None else target + noise * jax.random.normal(key, target.shape, real)
            return 0.5 * jnp.sum((mask @ product - seen if sensed else (product - seen) * mask) ** 2)

        def size(step: Any) -> Any:
            if schedule is None:
                return rate
            along = jnp.clip((step - schedule.warmup) / schedule.cosine, 0.0, 1.0)
            fallen = schedule.floor + (1 - schedule.floor) * (1 + jnp.cos(jnp.pi * along)) / 2
            return rate * jnp.where(step < schedule.warmup, (step + 1) / schedule.warmup, fallen)

        def one(params: Any, key: Any, mask: Any, target: Any, where: Any, start: Any, steps: int) -> Any:
            def step(params: Any, done: Any) -> Any:
                mine = key if batch is None and noise is None else jax.random.fold_in(key, done)
                grads = jax.grad(loss)(params, mine, mask, target, where)
                return [w - (size(done) * g).astype(real) for w, g in zip(params, grads, strict=True)], None

            return jax.lax.scan(step, params, start + jnp.arange(steps), unroll=UNROLL)[0]

        self._many = jax.jit(jax.vmap(one, in_axes=(0, 0, 0, 0, 0, None, None)), static_argnums=6)

    def train(self, steps: int) -> None:
        """Take so many steps."""
        self._params = self._many(self._params, self._keys, *self._data, self._done, steps)
        self._params[0].block_until_ready()
        self._done += steps

    @property
    def params(self) -> list[Any]:
        """The factors [R, ...]."""
        return [np.asarray(p) for p in self._params]


def measure(row: Row, count: int, seconds: float) -> dict[str, Any]:
    """One row of the table."""
    flops = lane_cost(row.spec).flops
    count = max(1, min(count, int(FLOPS // flops)))
    ours = Ours(row.spec, count)
    theirs = Theirs(row, ours)
    chunks = [_chunk(side, seconds) for side in (ours, theirs)]
    times: list[list[float]] = [[], []]
    for _ in range(REPEATS):
        for side, chunk, kept in zip((ours, theirs), chunks, times, strict=True):
            began = time.process_time()
            side.train(chunk)
            kept.append((time.process_time() - began) / chunk / count)
    mine, other = (1 / statistics.median(kept) for kept in times)
    return {
        "what": row.name,
        "lanes": count,
        "engine": ours.engine,
        "trial-steps/s": mine,
        "JAX": other,
        "ours/JAX": mine / other,
        "apart": _apart(row, min(count, 8), min(COMPARED, int(100 * FLOPS // (flops * min(count, 8))))),
    }


def _chunk(side: Ours | Theirs, seconds: float) -> int:
    """Return the steps that take about so many seconds. JAX compiles for each number of them."""
    steps = UNROLL
    while True:
        side.train(steps)
        began = time.process_time()
        side.train(steps)
        if time.process_time() - began > seconds / 4:
            return steps
        steps *= 8


def _apart(row: Row, count: int, steps: int) -> float | None:
    """Return how far the two are from each other after so many steps, relative to the largest entry; ``None`` if they draw numbers."""
    if row.spec.optimizer is not None and row.spec.optimizer.draws:
        return None
    ours = Ours(row.spec, count)
    theirs = Theirs(row, ours)
    ours.train(steps)
    theirs.train(steps)
    pairs = list(zip((p.numpy() for p in ours.lanes.params), theirs.params, strict=True))
    apart = max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)
    if apart > AGREE[row.spec.dtype]:
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
