"""The C++ of deep matrix kernels, straight-line or in loops (`workloads.engines.kernels.deep_matrix`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from workloads.engines.kernels.course_source import Course
from workloads.engines.kernels.deep_matrix_key import DeepMatrixKey
from workloads.engines.kernels.grouped_source import Body
from workloads.engines.kernels.source import Writer
from workloads.engines.kernels.updates import Gradient


def deep_matrix_body(key: DeepMatrixKey, write: Writer) -> Body:
    """Return what is written between the loop and the stop check."""
    return _Unrolled(key, write) if key.unrolled else _Looped(key, write)


class _Body:
    """What both styles have in common."""

    def __init__(self, key: DeepMatrixKey, write: Writer) -> None:
        self.key, self.write, self.course = key, write, Course.of(key)
        self.offsets = [sum(o * i for o, i in key.shapes[:layer]) for layer in range(len(key.shapes))]

    def load(self) -> None: ...

    def store(self) -> None: ...


class _Unrolled(_Body):
    """Straight-line code: parameters, targets and masks live in variables."""

    def load(self) -> None:
        key = self.key
        for layer, (out, into) in enumerate(key.shapes):
            for i, j in _cells(out, into):
                place = self.offsets[layer] + i * into + j
                self.write(f"vec w{layer}_{i}_{j} = w[{place}];")
                for n in range(len(key.update.arrays)):
                    self.write(f"vec s{n}_{layer}_{i}_{j} = s[{n * key.parameters + place}];")
        if key.measurements:
            self.write(*(f"const vec y{n} = y[{n}];" for n in range(key.measurements)))
        else:
            for i, j in _cells(key.rows, key.columns):
                self.write(f"const vec y{i}_{j} = y[{i * key.columns + j}], m{i}_{j} = m[{i * key.columns + j}];")

    def _below(self, layer: int) -> str:
        """Return the name under which W_layer ... W_1 goes."""
        return "w0" if layer == 0 else f"p{layer}"

    def forward(self) -> None:
        key, write = self.key, self.write
        for layer in range(1, len(key.shapes)):
            out, into = key.shapes[layer]
            below = self._below(layer - 1)
            for i, j in _cells(out, key.columns):
                write(f"vec p{layer}_{i}_{j} = " + _sum(f"w{layer}_{i}_{q} * {below}_{q}_{j}" for q in range(into)))
        top = self._below(len(key.shapes) - 1)
        if key.measurements:
            size = key.rows * key.columns
            for n in range(key.measurements):
                terms = (f"m[{n * size + i * key.columns + j}] * {top}_{i}_{j}" for i, j in _cells(key.rows, key.columns))
                write(f"vec r{n} = " + _sum(terms))
                if key.loss is None:
                    write(f"r{n} -= y{n};")
            seen = {str(n): f"r{n}" for n in range(key.measurements)}
        else:
            seen = {f"{i}_{j}": f"{top}_{i}_{j}" for i, j in _cells(key.rows, key.columns)}
            if key.loss is None:
                write(*(f"vec r{at} = ({product} - y{at}) * m{at};" for at, product in seen.items()))
        if key.loss is None:
            write("total = " + _sum(f"r{at} * r{at}" for at in seen))
            return
        for at, prediction in seen.items():
            write(f"vec v{at};", *([] if key.measurements else [f"vec r{at};"]), f"loss_.of({prediction}, y{at}, v{at}, r{at});")
        write("total = " + _sum(f"v{at}" for at in seen))

    def backward(self) -> None:
        key, write = self.key, self.write
        measured = [self.course.named(write, f"r{n}", n) for n in range(key.measurements)]
        for i, j in _cells(key.rows, key.columns):
            place, size = i * key.columns + j, key.rows * key.columns
            if key.measurements:
                write(f"vec a{i}_{j} = " + _sum(f"m[{n * size + place}] * {r}" for n, r in enumerate(measured)))
            seen = f"a{i}_{j}" if key.measurements else self.course.disturbed(f"r{i}_{j}", str(place))
            write(f"vec g{len(key.shapes) - 1}_{i}_{j} = {seen} * {key.update.outer};")
        if not key.update.whole:
            write(*key.update.prepare("vec", key.lanes))
        for layer in range(len(key.shapes) - 1, -1, -1):
            out, into = key.shapes[layer]
            here = f"g{layer}"
            if layer:
                for i, j in _cells(into, key.columns):
                    write(f"vec g{layer - 1}_{i}_{j} = " + _sum(f"w{layer}_{q}_{i} * {here}_{q}_{j}" for q in range(out)))
                below = self._below(layer - 1)
                for i, j in _cells(out, into):
                    write(f"vec d{layer}_{i}_{j} = " + _sum(f"{here}_{i}_{q} * {below}_{j}_{q}" for q in range(key.columns)))
            else:
                write(*(f"vec d0_{i}_{j} = {here}_{i}_{j};" for i, j in _cells(out, into)))
            if not key.update.whole:
                self._step(layer)
        if key.update.whole:
            every = [f"{layer}_{i}_{j}" for layer, (out, into) in enumerate(key.shapes) for i, j in _cells(out, into)]
            for name, slope, lines in key.update.norms("vec", key.lanes):
                terms = (slope(f"w{each}", f"d{each}") for each in every)
                write(f"vec {name} = " + _sum(f"{term} * {term}" for term in terms), *lines)
            write(*key.update.prepare("vec", key.lanes))
            for layer in range(len(key.shapes)):
                self._step(layer)

    def _step(self, layer: int) -> None:
        key = self.key
        for i, j in _cells(*key.shapes[layer]):
            state = [f"s{n}_{layer}_{i}_{j}" for n in range(len(key.update.arrays))]
            self.write(*key.update.entry(f"w{layer}_{i}_{j}", f"d{layer}_{i}_{j}", state, key.lanes))

    def store(self) -> None:
        for layer, (out, into) in enumerate(self.key.shapes):
            for i, j in _cells(out, into):
                place = self.offsets[layer] + i * into + j
                self.write(f"w[{place}] = w{layer}_{i}_{j};")
                for n in range(len(self.key.update.arrays)):
                    self.write(f"s[{n * self.key.parameters + place}] = s{n}_{layer}_{i}_{j};")


Index = Callable[[str, str], str]


class _Looped(_Body):
    """Loops over arrays; ``x`` is the workspace: prefix products, two gradients of them, the factors' gradients, the residuals."""

    def __init__(self, key: DeepMatrixKey, write: Writer) -> None:
        super().__init__(key, write)
        self.prefix, place = [0], 0
        for out, _ in key.shapes[1:]:
            self.prefix.append(place)
            place += out * key.columns
        widest = max(max(out, into) for out, into in key.shapes)
        self.upper = [place, place + widest * key.columns]
        place += 2 * widest * key.columns
        self.gradient = place
        self.residual = place + (key.parameters if key.update.whole else 0)
        # Tiles of results, with a column of one operand and an entry of the other, fill the registers. A lone lane has 16 for its plain
        # numbers, whatever the vectors have.
        self.tile = (5, 4) if key.lanes > 1 and key.registers >= 32 else (3, 3)

    def _factor(self, layer: int) -> Index:
        into = self.key.shapes[layer][1]
        return lambda i, j: f"w[{self.offsets[layer]} + ({i}) * {into} + {j}]"

    def _below(self, layer: int) -> Index:
        """W_layer ... W_1: a factor itself at the bottom."""
        if layer == 0:
            return self._factor(0)
        return lambda i, j: f"x[{self.prefix[layer]} + ({i}) * {self.key.columns} + {j}]"

    def _above(self, which: int) -> Index:
        return lambda i, j: f"x[{self.upper[which]} + ({i}) * {self.key.columns} + {j}]"

    def forward(self) -> None:
        key, write = self.key, self.write
        for layer in range(1, len(key.shapes)):
            out, into = key.shapes[layer]
            target = self._below(layer)
            self._product(out, key.columns, into, self._factor(layer), self._below(layer - 1), self._assign(target))
        top, upper, size = self._below(len(key.shapes) - 1), self._above(0), key.rows * key.columns
        write("total = zero;")
        if key.measurements:
            disturbed = self.course.disturbed("r", "n")
            with write.loop("n", 0, key.measurements):
                write("vec r = zero;")
                with write.loop("q", 0, size):
                    write(f"r += m[n * {size} + q] * {top('0', 'q')};")
                if key.loss is None:
                    write("r -= y[n];", f"x[{self.residual} + n] = {disturbed};", "total += r * r;")
                else:
                    write("vec v;", "loss_.of(r, y[n], v, r);", f"x[{self.residual} + n] = {disturbed};", "total += v;")
        else:
            disturbed = self.course.disturbed("r", "q")
            with write.loop("q", 0, size):
                if key.loss is None:
                    write(f"vec r = ({top('0', 'q')} - y[q]) * m[q];", f"{upper('0', 'q')} = {disturbed};", "total += r * r;")
                else:
                    write("vec v, r;", f"loss_.of({top('0', 'q')}, y[q], v, r);", f"{upper('0', 'q')} = {disturbed};", "total += v;")

    def backward(self) -> None:
        key, write = self.key, self.write
        size, upper = key.rows * key.columns, self._above(0)
        with write.loop("q", 0, size):
            if key.measurements:
                write("vec a = zero;")
                with write.loop("n", 0, key.measurements):
                    write(f"a += m[n * {size} + q] * x[{self.residual} + n];")
                write(f"{upper('0', 'q')} = a * {key.update.outer};")
            else:
                write(f"{upper('0', 'q')} *= {key.update.outer};")
        if not key.update.whole:
            write(*key.update.prepare("vec", key.lanes))
        for turn, layer in enumerate(range(len(key.shapes) - 1, 0, -1)):
            out, into = key.shapes[layer]
            here, there = self._above(turn % 2), self._above((turn + 1) % 2)
            self._product(into, key.columns, out, _transposed(self._factor(layer)), here, self._assign(there))
            self._product(out, into, key.columns, here, _transposed(self._below(layer - 1)), self._step(layer))
        out, into = key.shapes[0]
        with write.loop("q", 0, out * into):
            self._step(0)("0", "q", self._above((len(key.shapes) - 1) % 2)("0", "q"))
        if key.update.whole:
            for n, (name, slope, lines) in enumerate(key.update.norms("vec", key.lanes)):
                self._square(name, slope, "square" if n == 0 else "again")
                write(*lines)
            write(*key.update.prepare("vec", key.lanes))
            with write.loop("q", 0, key.parameters):
                state = [f"s[{n * key.parameters} + q]" for n in range(len(key.update.arrays))]
                write(*key.update.entry("w[q]", f"x[{self.gradient} + q]", state, key.lanes))

    def _square(self, norm: str, slope: Gradient, prefix: str) -> None:
        """Write code for a squared norm of the gradient, in an order that does not depend on the tiles, which lone lanes have smaller."""
        write, sums = self.write, [f"{prefix}{n}" for n in range(8)]
        write(*(f"vec {name} = zero;" for name in sums))
        whole = self.key.parameters // len(sums) * len(sums)

        def entry(n: int) -> str:
            return slope(f"w[q + {n}]", f"x[{self.gradient} + q + {n}]")

        with write.loop("q", 0, whole, len(sums)):
            write(*(f"{name} += {entry(n)} * {entry(n)};" for n, name in enumerate(sums)))
        with write.loop("q", whole, self.key.parameters):
            write(f"{sums[0]} += {entry(0)} * {entry(0)};")
        write(f"const vec {norm} = " + _sum(sums))

    def _assign(self, target: Index) -> Callable[[str, str, str], None]:
        return lambda i, j, value: self.write(f"{target(i, j)} = {value};")

    def _step(self, layer: int) -> Callable[[str, str, str], None]:
        """Code that uses an entry of a factor's gradient: takes the step, or keeps it until the norm of all is known."""
        key, into = self.key, self.key.shapes[layer][1]

        def step(i: str, j: str, gradient: str) -> None:
            place = f"{self.offsets[layer]} + ({i}) * {into} + {j}"
            if key.update.whole:
                self.write(f"x[{self.gradient} + {place}] = {gradient};")
            else:
                state = [f"s[{n * key.parameters} + {place}]" for n in range(len(key.update.arrays))]
                self.write(*key.update.entry(f"w[{place}]", gradient, state, key.lanes))

        return step

    def _product(self, rows: int, columns: int, inner: int, left: Index, right: Index, use: Callable[[str, str, str], None]) -> None:
        """Write code for sum over q of left(i, q) * right(q, j), tile by tile, handing each entry to ``use``."""
        write = self.write
        for i0, i1, height in _cut(rows, self.tile[0]):
            for j0, j1, width in _cut(columns, self.tile[1]):
                with write.loop("i", i0, i1, height), write.loop("j", j0, j1, width):
                    write(*(f"vec c{a}_{e} = zero;" for a, e in _cells(height, width)))
                    with write.loop("q", 0, inner):
                        write(*(f"const vec a{a} = {left(f'i + {a}', 'q')};" for a in range(height)))
                        write(*(f"const vec b{e} = {right('q', f'j + {e}')};" for e in range(width)))
                        write(*(f"c{a}_{e} += a{a} * b{e};" for a, e in _cells(height, width)))
                    for a, e in _cells(height, width):
                        use(f"i + {a}", f"j + {e}", f"c{a}_{e}")


def _transposed(matrix: Index) -> Index:
    return lambda i, j: matrix(j, i)


def _cut(size: int, most: int) -> list[tuple[int, int, int]]:
    """``size`` cut into tiles of two lengths at most, differing by one: (start, stop, length) of each."""
    parts = -(-size // most)
    small, large = divmod(size, parts)
    middle = large * (small + 1)
    return [cut for cut in ((0, middle, small + 1), (middle, size, small)) if cut[0] < cut[1]]


def _cells(rows: int, columns: int) -> Sequence[tuple[int, int]]:
    return [(i, j) for i in range(rows) for j in range(columns)]


def _sum(terms: Iterable[str]) -> str:
    return " + ".join(terms) + ";"
