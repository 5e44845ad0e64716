"""The C++ of small traced factorizations: straight-line code, an entry of an array a variable."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from workloads.engines.kernels.course_source import Course
from workloads.engines.kernels.functions import applied, definitions, number
from workloads.engines.kernels.source import Writer
from workloads.engines.kernels.traced_key import TracedKey
from workloads.factorizations.graphs.graph import Map, Move, Product, Reduce, Step
from workloads.factorizations.graphs.views import View

Names = NDArray[np.object_]


class Straight:
    """See `workloads.engines.kernels.grouped_source.Body`. What moves entries is no code at all: another array of the same names."""

    def __init__(self, key: TracedKey, write: Writer) -> None:
        self.key, self.write, self.graph, self.course = key, write, key.graph, Course.of(key)
        self.arrays: list[Names] = []
        start = 0
        for size in self.graph.sizes[: self.graph.outer]:
            self.arrays.append(_names(f"w_{start + n}" for n in range(size)))
            start += size
        self.arrays.append(_names(f"o_{q}" for q in range(key.size)))
        self.arrays += [_names(number(value) for value in values) for values in self.graph.constants]

    def load(self) -> None:
        key = self.key
        self.write(*definitions({step.name for step in self.graph.steps if isinstance(step, Map)}, key.lanes, key.dtype))
        for place in range(key.parameters):
            self.write(f"vec w_{place} = w[{place}];")
            self.write(*(f"vec s{n}_{place} = s[{n * key.parameters + place}];" for n in range(len(key.update.arrays))))

    def forward(self) -> None:
        key, write = self.key, self.write
        del self.arrays[self.graph.made :]
        for step in self.graph.steps[: self.graph.forward]:
            self._take(step)
        product = self._of(self.graph.product).reshape(-1)
        if key.measurements:
            for n in range(key.measurements):
                terms = (f"m[{n * key.size + q}] * {name}" for q, name in enumerate(product))
                write(f"vec r_{n} = {_sum(terms)};")
                write(f"r_{n} -= y[{n}];" if key.loss is None else f"vec v_{n}; loss_.of(r_{n}, y[{n}], v_{n}, r_{n});")
        elif key.loss is None:
            write(*(f"const vec r_{q} = ({name} - y[{q}]) * m[{q}];" for q, name in enumerate(product)))
        else:
            write(*(f"vec v_{q}, r_{q}; loss_.of({name}, y[{q}], v_{q}, r_{q});" for q, name in enumerate(product)))
        if key.loss is not None:
            write(f"total = {_sum(f'v_{n}' for n in range(key.measurements or key.size))};")
            return
        write(f"total = {_sum(f'r_{n} * r_{n}' for n in range(key.measurements or key.size))};")

    def backward(self) -> None:
        key, write = self.key, self.write
        measured = [self.course.named(write, f"r_{n}", n) for n in range(key.measurements)]
        for q in range(key.size):
            seen = self.course.disturbed(f"r_{q}", str(q))
            if measured:
                seen = _sum(f"m[{n * key.size + q}] * {r}" for n, r in enumerate(measured))
            write(f"const vec o_{q} = ({seen}) * {key.update.outer};")
        for step in self.graph.steps[self.graph.forward :]:
            self._take(step)
        gradients = [name for view in self.graph.gradients for name in self._of(view).reshape(-1)]
        for name, slope, lines in key.update.norms("vec", key.lanes):
            slopes = (slope(f"w_{place}", gradient) for place, gradient in enumerate(gradients))
            write(f"const vec {name} = {_sum(f'{g} * {g}' for g in slopes)};", *lines)
        write(*key.update.prepare("vec", key.lanes))
        for place, gradient in enumerate(gradients):
            # A copy: a gradient may be a parameter, which changes.
            write(f"const vec g_{place} = {gradient};")
        for place in range(key.parameters):
            state = [f"s{n}_{place}" for n in range(len(key.update.arrays))]
            write(*key.update.entry(f"w_{place}", f"g_{place}", state, key.lanes))

    def store(self) -> None:
        key = self.key
        for place in range(key.parameters):
            self.write(f"w[{place}] = w_{place};")
            self.write(*(f"s[{n * key.parameters + place}] = s{n}_{place};" for n in range(len(key.update.arrays))))

    def _of(self, view: View) -> Names:
        """Return the names of a view's entries [*shape]."""
        found: Names = self.arrays[view.array][view.indices().reshape(-1)]
        return found.reshape(view.shape)

    def _take(self, step: Step) -> None:
        """Write a step, and name what it makes."""
        array = len(self.arrays)
        match step:
            case Product(left, right):
                one, other = self._of(left), self._of(right)
                values = [_sum(f"{one[b, i, q]} * {other[b, q, j]}" for q in range(one.shape[2])) for b, i, j in np.ndindex(*step.shape)]
            case Map("copy", (View() as view,)):
                self.arrays.append(self._of(view).reshape(-1))
                return
            case Map(name, inputs):
                rows = [self._of(i).reshape(-1) if isinstance(i, View) else [number(i)] * int(np.prod(step.shape)) for i in inputs]
                values = [applied(name, list(given), self.key.lanes) for given in zip(*rows, strict=True)]
            case Reduce(name, view):
                entries = self._of(view).reshape(int(np.prod(step.shape)), -1)
                values = [_sum(row) if name == "sum" else self._most(name, f"m{array}_{n}", row) for n, row in enumerate(entries)]
            case Move():
                self._move(step)
                return
            case _:
                raise NotImplementedError(f"no kernel calls {step.operation}")
        self.write(*(f"const vec a{array}_{n} = {value};" for n, value in enumerate(values)))
        self.arrays.append(_names(f"a{array}_{n}" for n in range(len(values))))

    def _move(self, step: Move) -> None:
        entries = np.concatenate([self.arrays[view.array] for view in step.sources])
        if not step.adds:
            self.arrays.append(_names(entries[place] if place >= 0 else "zero" for place in step.table))
            return
        terms: list[list[str]] = [[] for _ in range(step.size)]
        for name, place in zip(entries, step.table, strict=True):
            terms[place].append(name)
        self.arrays.append(_names(f"({_sum(each)})" if each else "zero" for each in terms))

    def _most(self, name: str, variable: str, terms: Iterable[str]) -> str:
        """Return the largest or smallest of ``terms``, each step of which is a variable: in one expression it would double with each."""
        first, *rest = terms
        for place, term in enumerate(rest):
            self.write(f"const vec {variable}_{place} = {applied('maximum' if name == 'amax' else 'minimum', [term, first], 1)};")
            first = f"{variable}_{place}"
        return first


def _names(names: Iterable[str]) -> Names:
    return np.array(list(names), dtype=object)


def _sum(terms: Iterable[str]) -> str:
    return " + ".join(terms) or "zero"
