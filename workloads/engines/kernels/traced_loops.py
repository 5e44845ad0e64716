"""The C++ of larger traced factorizations: loops over arrays in a workspace."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

from workloads.engines.kernels.course_source import Course
from workloads.engines.kernels.functions import applied, definitions, number
from workloads.engines.kernels.source import Writer
from workloads.engines.kernels.tiles import Digits, best_tile, cut, digits_of, index, longest, nest, refined_digits, terms
from workloads.engines.kernels.traced_key import TracedKey, places, runs
from workloads.engines.kernels.updates import Gradient
from workloads.factorizations.graphs.graph import Map, Move, Product, Reduce
from workloads.factorizations.graphs.views import Axis, View

ENTRIES = 8
"""Entries of dL/dW that are added up side by side from measurements."""
SUMS = 4
"""Sums that go on side by side: one would wait for each addition."""


class Loops:
    """See `workloads.engines.kernels.grouped_source.Body`. ``x`` is the workspace: arrays, then the residuals of measurements."""

    def __init__(self, key: TracedKey, write: Writer) -> None:
        self.key, self.write, self.graph = key, write, key.graph
        self.places, self.residual = places(key.graph)
        self.course = Course.of(key)
        shapes = key.graph.parameters
        self.offsets = [sum(map(math.prod, shapes[:n])) for n in range(len(shapes))]

    def load(self) -> None:
        self.write(*definitions({step.name for step in self.graph.steps if isinstance(step, Map)}, self.key.lanes, self.key.dtype))
        for n, values in enumerate(self.graph.constants):
            self.write(f"static const real k{n}[] = {{{', '.join(map(repr, values))}}};")

    def store(self) -> None: ...

    def forward(self) -> None:
        key, write, graph = self.key, self.write, self.graph
        for run in runs(graph):
            if run.stop <= graph.forward:
                self._take(run)
        digits = digits_of(graph.product, View.whole(graph.outer, graph.shape))
        if not key.measurements:

            def residual(product: str, place: str) -> str:
                seen = self._at(graph.product.array, product)
                if key.loss is None:
                    write(f"r = ({seen} - y[{place}]) * m[{place}];")
                else:
                    write(f"loss_.of({seen}, y[{place}], v, r);")
                write(f"{self._at(graph.outer, place)} = {self.course.disturbed('r', place)} * {key.update.outer};")
                return "r * r" if key.loss is None else "v"

            self._sum("total", digits, [graph.product.offset, 0], residual)
            return
        write("total = zero;")
        for first, end, many in cut(key.measurements, SUMS):
            with write.loop("n", first, end, many):
                names = [f"seen{k}" for k in range(many)]
                self._sums(names, digits, [graph.product.offset, 0], self._measured(many))
                for k, seen in enumerate(names):
                    disturbed = self.course.disturbed(seen, f"n + {k}")
                    if key.loss is None:
                        write(f"{seen} -= y[n + {k}];", f"x[{self.residual} + n + {k}] = {disturbed};", f"total += {seen} * {seen};")
                    else:
                        write(f"vec v{k};", f"loss_.of({seen}, y[n + {k}], v{k}, {seen});")
                        write(f"x[{self.residual} + n + {k}] = {disturbed};", f"total += v{k};")

    def _measured(self, many: int) -> Callable[[str, str], list[str]]:
        """Return what makes code of an entry as several measurements, from ``n`` on, see it."""

        def seen(product: str, place: str) -> list[str]:
            entry = self._at(self.graph.product.array, product)
            return [f"m[(n + {k}) * {self.key.size} + {place}] * {entry}" for k in range(many)]

        return seen

    def backward(self) -> None:
        key, write, graph = self.key, self.write, self.graph
        if key.measurements:
            for first, end, many in cut(key.size, ENTRIES):
                with write.loop("q", first, end, many):
                    write(*(f"vec a{k} = zero;" for k in range(many)))
                    with write.loop("n", 0, key.measurements):
                        write(*(f"a{k} += m[n * {key.size} + q + {k}] * x[{self.residual} + n];" for k in range(many)))
                    write(*(f"{self._at(graph.outer, f'q + {k}')} = a{k} * {key.update.outer};" for k in range(many)))
        if not key.update.whole:
            write(*key.update.prepare("vec", key.lanes))
        for run in runs(graph):
            if run.start >= graph.forward:
                self._take(run)
        pairs = [(p, digits_of(view, View.whole(p, graph.parameters[p])), view) for p, view in enumerate(graph.gradients)]
        if key.update.whole:
            for name, slope, lines in key.update.norms("vec", key.lanes):
                write(f"vec {name} = zero;")
                for p, digits, view in pairs:
                    with write.block(""):
                        self._square(p, digits, view, slope)
                        write(f"{name} += part;")
                write(*lines)
            write(*key.update.prepare("vec", key.lanes))
        for p, digits, view in pairs:
            if view.array not in self._at_once:
                with nest(write, digits, "i") as names:
                    gradient = index(view.offset, *zip(names, (strides[0] for _, strides in digits), strict=True))
                    self._update(
                        p, index(0, *zip(names, (strides[1] for _, strides in digits), strict=True)), self._at(view.array, gradient)
                    )

    def _square(self, parameter: int, digits: Digits, gradient: View, slope: Gradient) -> None:
        """Write the variable ``part``: the sum of the squares of what a ``slope`` makes of a parameter's gradient."""

        def term(entry: str, place: str) -> str:
            code = slope(f"w[{self.offsets[parameter]} + {place}]", self._at(gradient.array, entry))
            return f"{code} * {code}"

        self._sum("part", digits, [gradient.offset, 0], term)

    def _update(self, parameter: int, place: str, gradient: str) -> None:
        """Write code that changes an entry of a parameter."""
        key, place = self.key, f"{self.offsets[parameter]} + {place}"
        state = [f"s[{n * key.parameters} + {place}]" for n in range(len(key.update.arrays))]
        self.write(*key.update.entry(f"w[{place}]", gradient, state, key.lanes))

    def _at(self, array: int, place: str) -> str:
        """Return the code of an entry of an array."""
        if array < self.graph.outer:
            return f"w[{self.offsets[array]} + {place}]"
        if self.graph.outer < array < self.graph.made:
            return f"(zero + k{array - self.graph.outer - 1}[{place}])"
        return f"x[{self.places[array]} + {place}]"

    def _sum(self, name: str, digits: Digits, offsets: list[int], term: Callable[..., str]) -> None:
        """Write a variable that is the sum of a ``term`` at each place."""
        self._sums([name], digits, offsets, lambda *where: [term(*where)])

    def _sums(self, names: list[str], digits: Digits, offsets: list[int], of: Callable[..., list[str]]) -> None:
        """Write variables that are sums of terms ``of`` each place; of what is a multiple, several sums side by side."""
        write = self.write
        *outer, (size, strides) = digits or [(1, (0,) * len(offsets))]
        many = SUMS if size % SUMS == 0 else 1
        for name in names:
            write(*([] if name == "total" else [f"vec {name};"]), f"{name} = zero;")
        with write.block(""):
            write("vec r;" if self.key.loss is None else "vec r, v;")
            write(*(f"vec t{k}_{n} = zero;" for k in range(len(names)) for n in range(many)))
            with nest(write, outer, "i") as i, write.loop("e", 0, size, many):
                for n in range(many):
                    steps = [[(name, s[1][a]) for name, s in zip(i, outer, strict=True)] for a in range(len(offsets))]
                    where = [index(o + n * strides[a], *steps[a], ("e", strides[a])) for a, o in enumerate(offsets)]
                    write(*(f"t{k}_{n} += {term};" for k, term in enumerate(of(*where))))
            write(*(f"{name} = {' + '.join(f't{k}_{n}' for n in range(many))};" for k, name in enumerate(names)))

    @cached_property
    def _at_once(self) -> dict[int, tuple[int, View]]:
        """Products that are a gradient and nothing else, of a parameter that nobody reads any more: which, and where its entries lie.

        Its entries are changed as they are made.
        """
        graph, found = self.graph, {}
        if self.key.update.whole:
            return {}
        last = {view.array: graph.made + n for n, step in enumerate(graph.steps) for view in step.operands}
        for p, view in enumerate(graph.gradients):
            array = view.array
            step = graph.steps[array - graph.made] if array >= graph.made else None
            alone = sum(other.array == array for other in graph.gradients) == 1 and array not in last
            if isinstance(step, Product) and alone and last.get(p, -1) < array:
                mine = _turned(view, View.whole(p, graph.parameters[p]), step.shape)
                if mine is not None:
                    found[array] = (p, mine)
        return found

    def _take(self, run: range) -> None:
        """Write a step, or several that are taken together."""
        step, array = self.graph.steps[run.start], self.graph.made + run.start
        with self.write.block(""):
            match step:
                case Product():
                    self._product(step, array)
                case Map():
                    self._maps([each for each in self.graph.steps[run.start : run.stop] if isinstance(each, Map)], array)
                case Reduce():
                    self._reduce(step, array)
                case Move():
                    self._move(step, array)
                case _:
                    raise NotImplementedError(f"no kernel calls {step.operation}")

    def _maps(self, steps: Sequence[Map], first: int) -> None:
        """Write functions of numbers, the arrays from ``first`` on: what one has of another stays a variable."""
        shape, made = steps[0].shape, range(first, first + len(steps))
        views = [view for step in steps for view in step.operands if view.array not in made]
        digits = digits_of(View.whole(first, shape), *views)
        with nest(self.write, digits, "i") as names:
            places = iter([index(v.offset, *terms(names, digits, n)) for n, v in enumerate(views, 1)])
            out = index(0, *terms(names, digits, 0))
            for array, step in zip(made, steps, strict=True):
                inputs = []
                for n, given in enumerate(step.inputs):
                    if isinstance(given, View) and given.array in made:
                        inputs.append(f"a{given.array}")
                        continue
                    inputs.append(f"v{array}_{n}")
                    code = self._at(given.array, next(places)) if isinstance(given, View) else number(given)
                    self.write(f"const vec {inputs[-1]} = {code};")
                self.write(f"const vec a{array} = {applied(step.name, inputs, self.key.lanes)};")
                if array in self.places:
                    self.write(f"{self._at(array, out)} = a{array};")

    def _reduce(self, step: Reduce, array: int) -> None:
        write, view = self.write, step.view
        kept = digits_of(View.whole(array, step.shape), View(view.array, 0, view.axes[: step.kept]))
        gone = digits_of(View(view.array, 0, view.axes[step.kept :]))
        with nest(write, kept, "i") as names:
            start = [(name, s[1]) for name, (_, s) in zip(names, kept, strict=True)]
            write("vec v = zero;" if step.name == "sum" else f"vec v = {self._at(view.array, index(view.offset, *start))};")
            with nest(write, gone, "q") as inner:
                rest = [(name, s[0]) for name, (_, s) in zip(inner, gone, strict=True)]
                write(f"const vec e = {self._at(view.array, index(view.offset, *start, *rest))};")
                function = {"sum": "add", "amax": "maximum", "amin": "minimum"}[step.name]
                write(f"v = {applied(function, ['e', 'v'], self.key.lanes)};")
            write(f"{self._at(array, index(0, *zip(names, (s[0] for _, s in kept), strict=True)))} = v;")

    def _move(self, step: Move, array: int) -> None:
        write = self.write
        if step.adds or -1 in step.table:
            with write.loop("n", 0, step.size):
                write(f"{self._at(array, 'n')} = zero;")
        start = 0
        for n, view in enumerate(step.sources):
            pairs = [(to, entry - start) for to, entry in enumerate(step.table) if start <= entry < start + view.size]
            if step.adds:
                pairs = [(to, entry) for entry, to in enumerate(step.table)]
            start += view.size
            if not pairs:
                continue
            write(f"static const int to{n}[] = {{{', '.join(str(to) for to, _ in pairs)}}};")
            write(f"static const int from{n}[] = {{{', '.join(str(entry) for _, entry in pairs)}}};")
            with write.loop("n", 0, len(pairs)):
                write(f"{self._at(array, f'to{n}[n]')} {'+=' if step.adds else '='} {self._at(view.array, f'from{n}[n]')};")

    def _product(self, step: Product, array: int) -> None:
        """Write matrix products tile by tile."""
        write, left, right = self.write, step.left, step.right
        parameter, out = self._at_once.get(array, (-1, View.whole(array, step.shape)))
        batch = refined_digits(left.axes[0], right.axes[0], out.axes[0])
        rows, columns = refined_digits(left.axes[1], out.axes[1]), refined_digits(right.axes[2], out.axes[2])
        inner = refined_digits(left.axes[2], right.axes[1])
        rows, (height, (down, out_down)) = longest(rows)
        columns, (width, (across, out_across)) = longest(columns)
        tile = best_tile(height, width, min(self.key.registers, 16) if self.key.lanes == 1 else self.key.registers)
        with nest(write, batch, "b") as b, nest(write, rows, "m") as m, nest(write, columns, "n") as n:
            one = terms(b, batch, 0) + terms(m, rows, 0)
            other = terms(b, batch, 1) + terms(n, columns, 0)
            result = terms(b, batch, 2) + terms(m, rows, 1) + terms(n, columns, 1)
            for i0, i1, tall in cut(height, tile[0]):
                for j0, j1, wide in cut(width, tile[1]):
                    with write.loop("i", i0, i1, tall), write.loop("j", j0, j1, wide):
                        cells = [(a, e) for a in range(tall) for e in range(wide)]
                        write(*(f"vec c{a}_{e} = zero;" for a, e in cells))
                        with nest(write, inner, "q") as q:
                            for a in range(tall):
                                place = index(left.offset + a * down, *one, ("i", down), *terms(q, inner, 0))
                                write(f"const vec a{a} = {self._at(left.array, place)};")
                            for e in range(wide):
                                place = index(right.offset + e * across, *other, ("j", across), *terms(q, inner, 1))
                                write(f"const vec e{e} = {self._at(right.array, place)};")
                            write(*(f"c{a}_{e} += a{a} * e{e};" for a, e in cells))
                        for a, e in cells:
                            place = index(out.offset + a * out_down + e * out_across, *result, ("i", out_down), ("j", out_across))
                            if parameter >= 0:
                                self._update(parameter, place, f"c{a}_{e}")
                            else:
                                write(f"{self._at(array, place)} = c{a}_{e};")


def _turned(gradient: View, parameter: View, shape: tuple[int, ...]) -> View | None:
    """Return the entries of an array of ``shape`` as places in the ``parameter`` of which it is the ``gradient``, if it is no more."""
    digits = sorted(digits_of(gradient, parameter), key=lambda digit: digit[1][0])
    expected = 1
    for size, (stride, _) in digits:
        if stride != expected:
            return None
        expected *= size
    if gradient.offset or expected != math.prod(shape):
        return None
    axis: Axis = tuple((size, place) for size, (_, place) in reversed(digits))
    return View(parameter.array, 0, (axis,)).reshaped(shape)
