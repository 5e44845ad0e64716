"""The C++ of the largest traced factorizations: a lane by itself, with vectors along the rows of its arrays.

Whatever a vector holds, an entry is the same sum in the same order, so that registers of any length give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from workloads.engines.kernels.source import Writer
from workloads.engines.kernels.tiles import Digits, best_tile, cut, digits_of, index, longest, nest, refined_digits, terms
from workloads.engines.kernels.traced_key import PANEL, TracedKey
from workloads.engines.kernels.traced_loops import Loops
from workloads.engines.kernels.updates import Gradient
from workloads.factorizations.graphs.graph import Product, Reduce
from workloads.factorizations.graphs.views import View
from workloads.trial import ITEM_BYTES

Terms = list[tuple[str, int]]
SIDE = 32
"""Squares that are added up side by side, whatever a vector holds."""


@dataclass(frozen=True)
class _Rows:
    """A matrix product of which ``size`` neighbouring entries of the result ``out`` are one row, ``across`` apart in ``right``.

    Of ``left`` single numbers are read. ``batch`` has the strides in left, right and out, ``rows`` those in left and out, ``columns``, of
    which one has been taken, in right and out, ``inner`` in left and right.
    """

    left: View
    right: View
    out: View
    batch: Digits
    rows: Digits
    columns: Digits
    inner: Digits
    size: int
    across: int

    @classmethod
    def of(cls, step: Product, out: View, width: int) -> Self | None:
        """Return a product, or its transpose, with rows of at least ``width`` entries; ``None`` where it has none."""
        for left, right, down, along in ((step.left, step.right, 1, 2), (step.right, step.left, 2, 1)):
            columns = list(refined_digits(right.axes[along], out.axes[along]))
            for place, (size, (across, beside)) in enumerate(columns):
                if beside == 1 and size >= width:
                    batch = refined_digits(left.axes[0], right.axes[0], out.axes[0])
                    rows, inner = refined_digits(left.axes[down], out.axes[down]), refined_digits(left.axes[along], right.axes[down])
                    return cls(left, right, out, batch, rows, columns[:place] + columns[place + 1 :], inner, size, across)
        return None

    @property
    def places(self) -> list[int]:
        """What each digit of the inner index counts for."""
        sizes = [size for size, _ in self.inner]
        return [math.prod(sizes[n + 1 :]) for n in range(len(sizes))]


@dataclass(frozen=True)
class _Piece:
    """Columns of a product: ``vectors`` of them at a time, of each of which the first ``filled`` places are used."""

    start: int
    stop: int
    vectors: int
    filled: int


class Rows(Loops):
    """See `Loops`: matrix products, sums and norms are others here. Where columns of an operand do not lie side by side, they are copied
    to a panel at the start of the workspace, some at a time."""

    def __init__(self, key: TracedKey, write: Writer) -> None:
        super().__init__(key, write)
        self.width = key.rows
        self.places = {array: key.panel + place for array, place in self.places.items()}
        self.residual += key.panel

    def load(self) -> None:
        # Aligned no more than a number is.
        item = ITEM_BYTES[self.key.dtype]
        self.write(f"typedef real wide __attribute__((vector_size({self.width * item}), aligned({item}), may_alias));")
        super().load()

    def _wide(self, array: int, place: str) -> str:
        """Return the code of entries of an array that lie side by side."""
        if self.graph.outer < array < self.graph.made:
            return f"(*(const wide*)&k{array - self.graph.outer - 1}[{place}])"
        return _wide(self._at(array, place))

    def _product(self, step: Product, array: int) -> None:
        """Write matrix products tile by tile, of rows and vectors of columns."""
        write, width = self.write, self.width
        # Fused multiply-adds: half as many instructions, and the same bits in vectors and in numbers.
        write("#pragma clang fp contract(on)")
        parameter, out = self._at_once.get(array, (-1, View.whole(array, step.shape)))
        found = _Rows.of(step, out, width)
        if found is None:
            super()._product(step, array)
            return
        others, (height, downs) = longest(found.rows)
        tile = best_tile(height, min(found.size // width, PANEL), self.key.registers)
        with nest(write, found.batch, "b") as b, nest(write, found.columns, "n") as n:
            right = [*terms(b, found.batch, 1), *terms(n, found.columns, 0), ("j", found.across)]
            for piece in _pieces(found.size, width, tile[1]):
                with write.loop("j", piece.start, piece.stop, piece.vectors * piece.filled):
                    packed = found.across != 1 or piece.filled < width
                    if packed:
                        self._pack(found, piece, right)
                    with nest(write, others, "m") as m:
                        left = [*terms(b, found.batch, 0), *terms(m, others, 0), ("i", downs[0])]
                        result = [*terms(b, found.batch, 2), *terms(m, others, 1), *terms(n, found.columns, 1), ("i", downs[1]), ("j", 1)]
                        for i0, i1, tall in cut(height, tile[0]):
                            with write.loop("i", i0, i1, tall):
                                self._tile(found, piece, [left, right], downs[0], tall, packed=packed)
                                self._keep(parameter, array, found.out.offset, result, downs[1], tall, piece)

    def _tile(self, found: _Rows, piece: _Piece, where: list[Terms], down: int, tall: int, *, packed: bool) -> None:
        """Write the sums ``c`` of a tile of ``tall`` rows, ``where`` the operands begin."""
        write, width, step = self.write, self.width, piece.vectors * self.width
        left, right = where
        write(*(f"wide c{a}_{e} = {{}};" for a in range(tall) for e in range(piece.vectors)))
        with nest(write, found.inner, "q") as q:
            for e in range(piece.vectors):
                if packed:
                    place = index(e * width, *((name, step * place) for name, place in zip(q, found.places, strict=True)))
                    code = _wide(f"x[{place}]")
                else:
                    code = self._wide(found.right.array, index(found.right.offset + e * width, *right, *terms(q, found.inner, 1)))
                write(f"const wide e{e} = {code};")
            for a in range(tall):
                place = index(found.left.offset + a * down, *left, *terms(q, found.inner, 0))
                write(f"const real a{a} = {self._at(found.left.array, place)};")
                write(*(f"c{a}_{e} += a{a} * e{e};" for e in range(piece.vectors)))

    def _keep(self, parameter: int, array: int, offset: int, where: Terms, down: int, tall: int, piece: _Piece) -> None:
        """Write what becomes of the sums of a tile: entries of an ``array``, or the step of a ``parameter``."""
        write, full = self.write, piece.filled == self.width
        for a in range(tall):
            for e in range(piece.vectors):
                place, value = index(offset + a * down + e * self.width, *where), f"c{a}_{e}"
                with ExitStack() as stack:
                    if not full:
                        stack.enter_context(write.loop("k", 0, piece.filled))
                        place, value = f"{place} + k", f"{value}[k]"
                    if parameter < 0:
                        write(f"{(self._wide if full else self._at)(array, place)} = {value};")
                    elif full:
                        self._update_wide(parameter, place, value)
                    else:
                        self._update(parameter, place, value)

    def _update_wide(self, parameter: int, place: str, gradient: str) -> None:
        """Write code that changes entries of a parameter that lie side by side."""
        key, write, place = self.key, self.write, f"{self.offsets[parameter]} + {place}"
        state = [_wide(f"s[{n * key.parameters} + {place}]") for n in range(len(key.update.arrays))]
        with write.block(""):
            write("typedef wide vec;", "const vec zero = {}, one = zero + (real)1;")
            write(*key.update.entry(_wide(f"w[{place}]"), gradient, state, self.width))

    def _pack(self, found: _Rows, piece: _Piece, where: Terms) -> None:
        """Write code that copies columns of the right operand to the panel, one row after another."""
        write, width, step, right = self.write, self.width, piece.vectors * self.width, found.right
        *outer, (size, (_, stride)) = found.inner or [(1, (0, 0))]
        # Neighbours in a column: squares are transposed.
        whole = size - size % width if stride == 1 and piece.filled == width else 0
        with nest(write, outer, "q") as q:
            source = [*where, *terms(q, outer, 1)]
            target = [(name, step * place) for name, place in zip(q, found.places, strict=False)]
            with write.loop("k", 0, whole, width), write.loop("e", 0, step, width):
                for r in range(width):
                    place = index(right.offset + r * found.across, *source, ("k", 1), ("e", found.across))
                    write(f"const wide v{width}_{r} = {self._wide(right.array, place)};")
                write(*_transposed(width))
                for r in range(width):
                    place = index(r * step, *target, ("k", step), ("e", 1))
                    write(f"{_wide(f'x[{place}]')} = v1_{r};")
            with write.loop("k", whole, size), write.loop("e", 0, piece.vectors * piece.filled):
                place = index(right.offset, *source, ("k", stride), ("e", found.across))
                write(f"x[{index(0, *target, ('k', step), ('e', 1))}] = {self._at(right.array, place)};")

    def _reduce(self, step: Reduce, array: int) -> None:
        write, view = self.write, step.view
        kept = digits_of(View.whole(array, step.shape), View(view.array, 0, view.axes[: step.kept]))
        if step.name != "sum" or not kept or kept[-1][1] != (1, 1):
            super()._reduce(step, array)
            return
        gone = digits_of(View(view.array, 0, view.axes[step.kept :]))
        *outer, (size, _) = kept
        with nest(write, outer, "i") as names:
            for kind, first, last, by in self._spans(size):
                at = self._wide if kind == "wide" else self._at
                with write.loop("e", first, last, by):
                    write(f"{kind} v = {{}};")
                    with nest(write, gone, "q") as q:
                        place = index(view.offset, *terms(names, outer, 1), ("e", 1), *terms(q, gone, 0))
                        write(f"v += {at(view.array, place)};")
                    write(f"{at(array, index(0, *terms(names, outer, 0), ('e', 1)))} = v;")

    def _square(self, parameter: int, digits: Digits, gradient: View, slope: Gradient) -> None:
        if not digits or digits[-1][1] != (1, 1):
            super()._square(parameter, digits, gradient, slope)
            return
        write, many = self.write, SIDE // self.width
        *outer, (size, _) = digits
        whole = size - size % SIDE
        write("vec part = zero;", *(f"wide t{n} = {{}};" for n in range(many)))
        with nest(write, outer, "i") as names:
            entry = index(gradient.offset, *terms(names, outer, 0), ("e", 1))
            place = f"w[{self.offsets[parameter]} + {index(0, *terms(names, outer, 1), ('e', 1))}"
            with write.loop("e", 0, whole, SIDE):
                for n in range(many):
                    code = slope(_wide(f"{place} + {n * self.width}]"), self._wide(gradient.array, f"{entry} + {n * self.width}"))
                    write(f"const wide v{n} = {code};", f"t{n} += v{n} * v{n};")
            with write.loop("e", whole, size):
                write(f"const vec v = {slope(f'{place}]', self._at(gradient.array, entry))};", "part += v * v;")
        write(*(f"for (int k = 0; k < {self.width}; ++k) part += t{n}[k];" for n in range(many)))

    def _spans(self, size: int) -> Iterator[tuple[str, int, int, int]]:
        """Yield how ``size`` neighbouring entries are gone through: what is a variable, first, last, step."""
        whole = size - size % self.width
        if whole:
            yield "wide", 0, whole, self.width
        if whole < size:
            yield "vec", whole, size, 1


def _wide(entry: str) -> str:
    """Return the code of entries that lie side by side, of that of the first of them."""
    return f"(*(wide*)&{entry})"


def _pieces(size: int, width: int, most: int) -> list[_Piece]:
    """Return ``size`` columns as pieces of at most so many vectors; what fills none is a vector of its own."""
    whole = size // width
    found = [_Piece(start * width, stop * width, vectors, width) for start, stop, vectors in cut(whole, most)]
    return found + ([_Piece(whole * width, size, 1, size % width)] if size % width else [])


def _transposed(width: int) -> Iterator[str]:
    """Yield code that makes of ``width`` vectors their transpose: the blocks beside the diagonal change places, halves, then quarters."""
    half = width
    while half > 1:
        half //= 2
        for r in range(width):
            low = not r & half
            pair = (r, r + half) if low else (r - half, r)
            picked = [n + (0 if low else half) if not n & half else width + n - (half if low else 0) for n in range(width)]
            one, other = (f"v{2 * half}_{place}" for place in pair)
            yield f"const wide v{half}_{r} = __builtin_shufflevector({one}, {other}, {', '.join(map(str, picked))});"
