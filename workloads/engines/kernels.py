"""Kernels that hold the whole training loop of a deep matrix factorization, generated for its shape, in NVIDIA Warp.

Every number is a short vector over V lanes, so that a CPU core works at full SIMD width and no lane touches another. Small
factorizations are unrolled into straight-line code whose values stay in registers; larger ones are loops over a workspace in cache, the
matrix products blocked so that a tile of results stays in registers. The same source compiles for CPU and CUDA.

A kernel advances each group of V lanes until one of them arrives (`workloads.engines.base.Engine`), checking the loss at every step.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

OPTIMIZERS = ("gd", "momentum", "group_rmsprop")
"""Optimizers that kernels are generated for."""
UNROLLED_PRODUCTS = 40
"""Up to this many multiplications in the products of a forward pass a kernel is unrolled: beyond, compiling takes seconds."""
TILE = 5
"""Most rows of a register tile."""
TILE_AREA = 9
"""Most entries of a register tile: more give faster code, but compile for longer than they save."""


@dataclass(frozen=True)
class KernelKey:
    """What a kernel is generated for: shapes of W_1 ... W_L, the number of measurements (0: completion), and the rest of the step."""

    shapes: tuple[tuple[int, int], ...]
    measurements: int
    optimizer: str
    dtype: str
    lanes: int

    @property
    def rows(self) -> int:
        """Rows of the product."""
        return self.shapes[-1][0]

    @property
    def columns(self) -> int:
        """Columns of the product."""
        return self.shapes[0][1]

    @property
    def parameters(self) -> int:
        """Entries of all factors."""
        return sum(out * into for out, into in self.shapes)

    @property
    def workspace(self) -> int:
        """Entries of scratch memory that a group needs."""
        if self.unrolled:
            return 0
        prefixes = sum(out * self.columns for out, _ in self.shapes[1:])
        widest = max(max(out, into) for out, into in self.shapes)
        gradients = self.parameters if self.optimizer == "group_rmsprop" else 0
        return prefixes + 2 * widest * self.columns + gradients + self.measurements

    @property
    def unrolled(self) -> bool:
        """Whether the kernel is straight-line code."""
        products = sum(out * into * self.columns for out, into in self.shapes[1:]) + self.measurements * self.rows * self.columns
        return products <= UNROLLED_PRODUCTS and self.parameters <= UNROLLED_PRODUCTS


@lru_cache(maxsize=256)
def kernel(key: KernelKey) -> tuple[Any, Any]:
    """The Warp kernel for ``key`` and its vector type. Compiled at first launch, and cached on disk by Warp."""
    import warp as wp

    source = _source(key)
    name = f"<fused kernel {key.shapes} {key.measurements} {key.optimizer} {key.dtype} x{key.lanes}>"
    # Warp reads a kernel's source through inspect, which finds it here.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    names: dict[str, Any] = {}
    exec(compile(source, name, "exec"), names)  # noqa: S102  (generated above, from numbers alone)
    made = wp.kernel(names["train"], enable_backward=False, module="unique", module_options={"max_unroll": 0, "fast_math": False})
    return made, names["vec"]


class _Writer:
    """Lines of source with indentation."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 1

    def __call__(self, *lines: str) -> None:
        self.lines += ["    " * self.depth + line for line in lines]


def _mul(a: str, b: str) -> str:
    return f"wp.cw_mul({a}, {b})"


def _source(key: KernelKey) -> str:
    write = _Writer()
    real = f"wp.{key.dtype}"
    write(
        "b = wp.tid()",
        "rate = lr[b]",
        "scale = loss_scale[b]",
        "low = until[b]",
        "last = steps[b]",
        "done = int(0)",
        "loss = vec()",
        f"one = vec({real}(1.0))",
        f"zero = {real}(0.0)",
    )
    if key.optimizer != "group_rmsprop":
        # dL/dW = 2 scale * residual, and the step is linear in it: one factor for both.
        write("rate = wp.cw_mul(rate, scale + scale)")
    if key.optimizer == "momentum":
        write("decay = first[b]")
    if key.optimizer == "group_rmsprop":
        write("beta = first[b]", "eps = second[b]", "average = S[b, 0]", "power = S[b, 1]", "outer_scale = scale + scale")
    body: _Body = _Unrolled(key, write) if key.unrolled else _Looped(key, write)
    body.load()
    write("for k in range(last + 1):")
    write.depth += 1
    write("done = k")
    body.forward()
    write("loss = wp.cw_mul(total, scale)", "gap = loss - low", "least = gap[0]", "odd = gap[0] * zero")
    for lane in range(1, key.lanes):
        write(f"least = wp.min(least, gap[{lane}])", f"odd = odd + gap[{lane}] * zero")
    # The minimum passes over NaN, so a sum looks for it: infinity and NaN times zero are NaN, which equals nothing.
    write("if least <= zero or odd != zero:", "    break", "if k >= last:", "    break")
    body.backward()
    write.depth -= 1
    body.store()
    if key.optimizer == "group_rmsprop":
        write("S[b, 0] = average", "S[b, 1] = power")
    write("steps[b] = done", "losses[b] = loss")
    tables = [f"{name}: wp.array2d(dtype=vec)" for name in ("W", "S", "Y", "M", "X")]
    vectors = [f"{name}: wp.array(dtype=vec)" for name in ("lr", "first", "second", "loss_scale", "until")]
    arguments = [*tables, *vectors, "steps: wp.array(dtype=wp.int32)", "losses: wp.array(dtype=vec)"]
    header = [
        "import warp as wp",
        f"vec = wp.types.vector(length={key.lanes}, dtype={real})",
        f"def train({', '.join(arguments)}):",
    ]
    return "\n".join([*header, *write.lines]) + "\n"


def _rmsprop_rate(key: KernelKey, write: _Writer) -> None:
    """The step size of `workloads.optimizers.group_rmsprop` from ``squared``, the squared norm of the whole gradient."""
    real = f"wp.{key.dtype}"
    roots = ", ".join(f"wp.sqrt(corrected[{lane}])" for lane in range(key.lanes))
    write(
        "average = wp.cw_mul(average, beta) + wp.cw_mul(squared, one - beta)",
        "power = wp.cw_mul(power, beta)",
        "corrected = wp.cw_div(average, one - power)",
        f"root = vec({roots})" if key.lanes > 1 else f"root = vec({real}(wp.sqrt(corrected[0])))",
        "size = wp.cw_div(rate, root + eps)",
    )


class _Body:
    """The parts of a kernel that differ between the two styles."""

    def __init__(self, key: KernelKey, write: _Writer) -> None:
        self.key, self.write = key, write
        self.offsets = [sum(o * i for o, i in key.shapes[:layer]) for layer in range(len(key.shapes))]

    def load(self) -> None: ...

    def forward(self) -> None:
        """Write code that leaves the sum of squared residuals in ``total``."""

    def backward(self) -> None:
        """Write code that takes the step."""

    def store(self) -> None: ...


class _Unrolled(_Body):
    """Straight-line code: parameters, targets and masks live in variables."""

    def load(self) -> None:
        key = self.key
        for layer, (out, into) in enumerate(key.shapes):
            for i, j in _cells(out, into):
                self.write(f"w{layer}_{i}_{j} = W[b, {self.offsets[layer] + i * into + j}]")
                if key.optimizer == "momentum":
                    self.write(f"v{layer}_{i}_{j} = S[b, {self.offsets[layer] + i * into + j}]")
        if key.measurements:
            self.write(*(f"y{n} = Y[b, {n}]" for n in range(key.measurements)))
        else:
            for i, j in _cells(key.rows, key.columns):
                self.write(f"y{i}_{j} = Y[b, {i * key.columns + j}]", f"m{i}_{j} = M[b, {i * key.columns + j}]")

    def _below(self, layer: int) -> str:
        """The name under which W_layer ... W_1 goes."""
        return "w0" if layer == 0 else f"p{layer}"

    def forward(self) -> None:
        key, write = self.key, self.write
        for layer in range(1, len(key.shapes)):
            out, into = key.shapes[layer]
            for i, j in _cells(out, key.columns):
                write(
                    f"p{layer}_{i}_{j} = " + " + ".join(_mul(f"w{layer}_{i}_{q}", f"{self._below(layer - 1)}_{q}_{j}") for q in range(into))
                )
        top = self._below(len(key.shapes) - 1)
        if key.measurements:
            for n in range(key.measurements):
                terms = [
                    _mul(f"M[b, {n * key.rows * key.columns + i * key.columns + j}]", f"{top}_{i}_{j}")
                    for i, j in _cells(key.rows, key.columns)
                ]
                write(f"r{n} = " + " + ".join(terms) + f" - y{n}")
            residuals = [f"r{n}" for n in range(key.measurements)]
        else:
            for i, j in _cells(key.rows, key.columns):
                write(f"r{i}_{j} = wp.cw_mul({top}_{i}_{j} - y{i}_{j}, m{i}_{j})")
            residuals = [f"r{i}_{j}" for i, j in _cells(key.rows, key.columns)]
        write("total = " + " + ".join(_mul(r, r) for r in residuals))

    def backward(self) -> None:
        key, write = self.key, self.write
        factor = "outer_scale" if key.optimizer == "group_rmsprop" else "rate" if key.optimizer == "gd" else "scale + scale"
        for i, j in _cells(key.rows, key.columns):
            if key.measurements:
                place = i * key.columns + j
                seen = " + ".join(_mul(f"M[b, {n * key.rows * key.columns + place}]", f"r{n}") for n in range(key.measurements))
            else:
                seen = f"r{i}_{j}"
            write(f"g{i}_{j} = " + _mul(seen, factor))
        for layer in range(len(key.shapes) - 1, -1, -1):
            out, into = key.shapes[layer]
            if layer:
                for i, j in _cells(into, key.columns):
                    write(f"h{i}_{j} = " + " + ".join(_mul(f"w{layer}_{q}_{i}", f"g{q}_{j}") for q in range(out)))
                for i, j in _cells(out, into):
                    below = self._below(layer - 1)
                    write(f"d{layer}_{i}_{j} = " + " + ".join(_mul(f"g{i}_{q}", f"{below}_{j}_{q}") for q in range(key.columns)))
            else:
                write(*(f"d0_{i}_{j} = g{i}_{j}" for i, j in _cells(out, into)))
            if key.optimizer != "group_rmsprop":
                self._update(layer)
            if layer:
                write(*(f"g{i}_{j} = h{i}_{j}" for i, j in _cells(into, key.columns)))
        if key.optimizer == "group_rmsprop":
            every = [f"d{layer}_{i}_{j}" for layer, (out, into) in enumerate(key.shapes) for i, j in _cells(out, into)]
            write("squared = " + " + ".join(_mul(d, d) for d in every))
            _rmsprop_rate(key, write)
            for layer in range(len(key.shapes)):
                self._update(layer)

    def _update(self, layer: int) -> None:
        for i, j in _cells(*self.key.shapes[layer]):
            w, d, v = (f"{x}{layer}_{i}_{j}" for x in "wdv")
            match self.key.optimizer:
                case "gd":
                    self.write(f"{w} = {w} - {d}")
                case "momentum":
                    self.write(f"{v} = wp.cw_mul(decay, {v}) + {d}", f"{w} = {w} - wp.cw_mul(lr[b], {v})")
                case _:
                    self.write(f"{w} = {w} - wp.cw_mul(size, {d})")

    def store(self) -> None:
        for layer, (out, into) in enumerate(self.key.shapes):
            for i, j in _cells(out, into):
                place = self.offsets[layer] + i * into + j
                self.write(f"W[b, {place}] = w{layer}_{i}_{j}")
                if self.key.optimizer == "momentum":
                    self.write(f"S[b, {place}] = v{layer}_{i}_{j}")


Index = Callable[[str, str], str]


class _Looped(_Body):
    """Loops over arrays; ``X`` is the workspace: prefix products, two gradients of them, the factors' gradients, the residuals."""

    def __init__(self, key: KernelKey, write: _Writer) -> None:
        super().__init__(key, write)
        self.prefix, place = [0], 0
        for out, _ in key.shapes[1:]:
            self.prefix.append(place)
            place += out * key.columns
        widest = max(max(out, into) for out, into in key.shapes)
        self.upper = [place, place + widest * key.columns]
        place += 2 * widest * key.columns
        self.gradient = place
        self.residual = place + (key.parameters if key.optimizer == "group_rmsprop" else 0)

    def _factor(self, layer: int) -> Index:
        into = self.key.shapes[layer][1]
        return lambda i, j: f"W[b, {self.offsets[layer]} + ({i}) * {into} + ({j})]"

    def _below(self, layer: int) -> Index:
        """W_layer ... W_1: a factor itself at the bottom."""
        if layer == 0:
            return self._factor(0)
        return lambda i, j: f"X[b, {self.prefix[layer]} + ({i}) * {self.key.columns} + ({j})]"

    def _above(self, which: int) -> Index:
        return lambda i, j: f"X[b, {self.upper[which]} + ({i}) * {self.key.columns} + ({j})]"

    def forward(self) -> None:
        key, write = self.key, self.write
        for layer in range(1, len(key.shapes)):
            out, into = key.shapes[layer]
            target = self._below(layer)
            self._product(out, key.columns, into, self._factor(layer), self._below(layer - 1), _assign(target))
        top, upper, size = self._below(len(key.shapes) - 1), self._above(0), key.rows * key.columns
        write("total = vec()")
        if not key.measurements:
            write(f"for q in range({size}):")
            flat = top("0", "q")
            write(f"    r = wp.cw_mul({flat} - Y[b, q], M[b, q])", f"    {upper('0', 'q')} = r", "    total = total + wp.cw_mul(r, r)")
            return
        write(f"for n in range({key.measurements}):", "    r = vec()", f"    for q in range({size}):")
        write(f"        r = r + wp.cw_mul(M[b, n * {size} + q], {top('0', 'q')})", "    r = r - Y[b, n]")
        write(f"    X[b, {self.residual} + n] = r", "    total = total + wp.cw_mul(r, r)")

    def backward(self) -> None:
        key, write = self.key, self.write
        factor = "outer_scale" if key.optimizer == "group_rmsprop" else "rate" if key.optimizer == "gd" else "scale + scale"
        size = key.rows * key.columns
        upper = self._above(0)
        write(f"for q in range({size}):")
        if key.measurements:
            write("    z = vec()", f"    for n in range({key.measurements}):")
            write(
                f"        z = z + wp.cw_mul(M[b, n * {size} + q], X[b, {self.residual} + n])",
                f"    {upper('0', 'q')} = wp.cw_mul(z, {factor})",
            )
        else:
            write(f"    {upper('0', 'q')} = wp.cw_mul({upper('0', 'q')}, {factor})")
        if key.optimizer == "group_rmsprop":
            write("squared = vec()")
        for turn, layer in enumerate(range(len(key.shapes) - 1, 0, -1)):
            out, into = key.shapes[layer]
            here, there = self._above(turn % 2), self._above((turn + 1) % 2)
            self._product(into, key.columns, out, _transposed(self._factor(layer)), here, _assign(there))
            self._product(out, into, key.columns, here, _transposed(self._below(layer - 1)), self._step(layer))
        self._bottom(self._above((len(key.shapes) - 1) % 2))
        if key.optimizer == "group_rmsprop":
            _rmsprop_rate(key, write)
            write(f"for q in range({key.parameters}):", f"    W[b, q] = W[b, q] - wp.cw_mul(size, X[b, {self.gradient} + q])")

    def _bottom(self, here: Index) -> None:
        """The lowest factor, whose gradient is already there."""
        step = self._step(0)
        out, into = self.key.shapes[0]
        self.write(f"for q in range({out * into}):")
        self.write.depth += 1
        self.write(f"d = {here('0', 'q')}")
        step("0", "q", "d")
        self.write.depth -= 1

    def _step(self, layer: int) -> Callable[[str, str, str], None]:
        """Code that uses an entry of a factor's gradient: takes the step, or keeps it until the norm of all is known."""
        into = self.key.shapes[layer][1]

        def step(i: str, j: str, d: str) -> None:
            place = f"{self.offsets[layer]} + ({i}) * {into} + ({j})"
            match self.key.optimizer:
                case "gd":
                    self.write(f"W[b, {place}] = W[b, {place}] - {d}")
                case "momentum":
                    self.write(f"v = wp.cw_mul(decay, S[b, {place}]) + {d}", f"S[b, {place}] = v")
                    self.write(f"W[b, {place}] = W[b, {place}] - wp.cw_mul(lr[b], v)")
                case _:
                    self.write(f"X[b, {self.gradient} + {place}] = {d}", f"squared = squared + wp.cw_mul({d}, {d})")

        return step

    def _product(self, rows: int, columns: int, inner: int, left: Index, right: Index, use: Callable[[str, str, str], Any]) -> None:
        """Write code for sum over q of left(i, q) * right(q, j), tile by tile, handing each entry to ``use``."""
        tall = _tile(rows, TILE)
        wide = _tile(columns, max(1, TILE_AREA // tall))
        for i0, i_count, height in _cut(rows, tall):
            for j0, j_count, width in _cut(columns, wide):
                write = self.write
                write(f"for ti in range({i_count}):")
                write.depth += 1
                write(f"i = {i0} + ti * {height}", f"for tj in range({j_count}):")
                write.depth += 1
                write(f"j = {j0} + tj * {width}", *(f"c{a}_{e} = vec()" for a, e in _cells(height, width)), f"for q in range({inner}):")
                write(*(f"    x{a} = {left(f'i + {a}', 'q')}" for a in range(height)))
                write(*(f"    z{e} = {right('q', f'j + {e}')}" for e in range(width)))
                write(*(f"    c{a}_{e} = c{a}_{e} + wp.cw_mul(x{a}, z{e})" for a, e in _cells(height, width)))
                for a, e in _cells(height, width):
                    lines = use(f"i + {a}", f"j + {e}", f"c{a}_{e}")
                    if lines:
                        write(lines)
                write.depth -= 2


def _transposed(matrix: Index) -> Index:
    return lambda i, j: matrix(j, i)


def _assign(target: Index) -> Callable[[str, str, str], str]:
    return lambda i, j, value: f"{target(i, j)} = {value}"


def _tile(size: int, most: int) -> int:
    """The largest divisor of ``size`` up to ``most``, or 2: a rest is another loop to compile, and costs seconds."""
    divisors = [n for n in range(2, min(most, size) + 1) if size % n == 0]
    return max(divisors, default=min(2, size, most))


def _cut(size: int, length: int) -> list[tuple[int, int, int]]:
    """``size`` cut into tiles: (start, how many, length) for the even part and, if any, the rest."""
    whole, rest = divmod(size, length)
    return [(0, whole, length), *([(whole * length, 1, rest)] if rest else [])]


def _cells(rows: int, columns: int) -> Sequence[tuple[int, int]]:
    return [(i, j) for i in range(rows) for j in range(columns)]
