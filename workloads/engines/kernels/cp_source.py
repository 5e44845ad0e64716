"""The C++ of CP kernels: a walk through the trees of observed entries, and back (`workloads.engines.kernels.cp`)."""

from __future__ import annotations

import math
from functools import lru_cache
from inspect import signature
from typing import Any

from workloads.engines.kernels.cp_key import CpKey
from workloads.engines.kernels.leaf_course import LeafCourse
from workloads.engines.kernels.losses import TWICE, defined, made
from workloads.engines.kernels.source import GOING, Writer, sums, vector_type

LEAVES = 8
"""Most entries of a fiber that are worked on at once: their sums and factors stay in registers."""
CHAINS = 4
"""Sums that are kept apart where a fiber has few entries, so that additions do not wait for each other."""


@lru_cache(maxsize=256)
def cp_kernel(key: CpKey) -> Any:
    """Return the Warp kernel for ``key``, for a CPU. Compiled at first launch, and cached on disk by Warp.

    One thread is one lane; they run one after another. Arguments, all flat: parameters and state like them, lane by lane, rows of
    ``vectors`` vec; numbers of state; workspace; hyperparameters followed by the loss's scale and numbers; losses to stop at; steps to do
    and done (a lane to be left alone has -1); losses; the trees of `workloads.engines.kernels.trees.entry_tree`; what depends on the
    steps done, in words of 64 bits (`workloads.engines.kernels.options.Options.course`).
    """
    import warp as wp

    def advance(weights, state, numbers, scratch, hyper, until, steps, losses, values, index, child, roots, places, course, lane): ...  # type: ignore[no-untyped-def]

    def train(weights, state, numbers, scratch, hyper, until, steps, losses, values, index, child, roots, places, course):  # type: ignore[no-untyped-def]
        native(weights, state, numbers, scratch, hyper, until, steps, losses, values, index, child, roots, places, course, wp.tid())

    # Warp reads an argument's type from its annotation; these depend on the key.
    types = dict.fromkeys(signature(train).parameters, wp.array(dtype=getattr(wp, key.dtype)))
    counts = dict.fromkeys(("steps", "index", "child", "roots"), wp.array(dtype=wp.int32))
    words = dict.fromkeys(("places", "course"), wp.array(dtype=wp.int64))
    train.__annotations__ = types | counts | words | {"return": None}
    advance.__annotations__ = train.__annotations__ | {"lane": int}
    native: Any = wp.func_native(_source(key))(advance)
    return wp.kernel(train, enable_backward=False, module="unique")


def _source(key: CpKey) -> str:
    write, update, course = Writer(), key.update, course_of(key)
    write(*vector_type(key.dtype, key.width))
    if key.loss is not None:
        write(*defined(key.loss, "vec", key.width, key.dtype))
    _tables(key, write)
    course.define(write)
    if update.options.draws:
        # The leaves of a lane lie side by side, below its first root to its last.
        write("vec* const x = (vec*)scratch.data;", "int first_ = roots.data[2 * lane], end_ = roots.data[2 * lane + 1];")
        with write.loop("n", 1, len(key.shape)):
            write("first_ = child.data[first_];", "end_ = child.data[end_];")
    course.load(write)
    with write.block("for (;; ++done)"):
        course.begin(write)
        with write.loop("q", 0, key.rows * key.vectors):
            write("g[q] = zero;")
        write("total = 0;")
        _nodes(key, write, 0, "roots.data[2 * lane]", "roots.data[2 * lane + 1]")
        write("total *= scale;", f"if (!({GOING.format(none=0)}) || done >= last) break;")
        _step(key, write)
    write(*(f"numbers.data[(size_t)lane * {len(update.numbers)} + {n}] = {name};" for n, name in enumerate(update.numbers)))
    write("steps.data[lane] = done;", "losses.data[lane] = total;")
    return write.text


def _tables(key: CpKey, write: Writer) -> None:
    """Write variables for a lane's rows of the tables."""
    update, row = key.update, key.vectors
    size = key.rows * row
    write(f"vec* __restrict__ w = (vec*)weights.data + (size_t)lane * {size};", "vec* __restrict__ g = (vec*)scratch.data;")
    for n in range(len(update.arrays)):
        write(f"vec* __restrict__ s{n} = (vec*)state.data + ((size_t)lane * {len(update.arrays)} + {n}) * {size};")
    place = size
    buffers = [str(level) for level in range(1, len(key.shape) - 1)] + [f"{len(key.shape) - 2}_"]
    for name in buffers:
        write(
            f"vec* __restrict__ pb{name} = (vec*)scratch.data + {place};",
            f"vec* __restrict__ tb{name} = (vec*)scratch.data + {place + row};",
        )
        place += 2 * row
    write(f"const real* __restrict__ h = hyper.data + (size_t)lane * {len(update.hyper) + 1 + len(key.loss.numbers if key.loss else ())};")
    scheduled = "schedule" in update.options
    write(*(f"const real {'full_' if scheduled and name == 'lr' else name} = h[{n}];" for n, name in enumerate(update.hyper)))
    rate = "" if scheduled else ", rate = lr * twice"
    write(f"const real scale = h[{len(update.hyper)}], twice = {TWICE[key.loss is not None]}{rate};")
    write(*made(key.loss, len(update.hyper) + 1, "vec{} + "))
    write(
        "const real low = until.data[lane], one = 1;",
        "const int last = steps.data[lane];",
        "int done = 0;",
        "real total = 0;",
        "const vec zero = {};",
    )
    write("if (last < 0) return;")
    write(*(f"real {name} = numbers.data[(size_t)lane * {len(update.numbers)} + {n}];" for n, name in enumerate(update.numbers)))


def _step(key: CpKey, write: Writer) -> None:
    """Write what takes a step with the gradient."""
    update, size = key.update, key.rows * key.vectors
    for n, (name, slope, following) in enumerate(update.norms("real", 1)):
        norm = "norm" if n == 0 else "again_"
        write(f"vec {norm} = zero;")
        with write.loop("q", 0, size):
            write(f"{norm} += {slope('w[q]', 'g[q]')} * {slope('w[q]', 'g[q]')};")
        lines, (added,) = sums([norm], key.width, "n" if n == 0 else "a")
        write(*lines, f"const real {name} = {added};", *following)
    # On plain numbers: a lane has one learning rate for all its components.
    write(*update.prepare("real", 1))
    with write.loop("q", 0, size):
        write(*update.entry("w[q]", "g[q]", [f"s{n}[q]" for n in range(len(update.arrays))], key.width))


def course_of(key: CpKey) -> LeafCourse:
    """Return what writes the code of a kernel's schedules and random numbers."""
    return LeafCourse(key.update.options, key.dtype, key.width, start=key.drawn, leaves=math.prod(key.shape))


def _nodes(key: CpKey, write: Writer, level: int, start: str, stop: str) -> None:
    """Write the loop over the nodes of a level from ``start`` to ``stop``, which are children of one parent or roots."""
    node = f"n{level}"
    if level < len(key.shape) - 2:
        with write.loop(node, start, stop):
            _head(key, write, level, node, "")
            _nodes(key, write, level + 1, f"child.data[{node}]", f"child.data[{node} + 1]")
            _tail(key, write, level, "")
        return
    # Neighbouring fibers that are wholly observed go two at a time: they share the rows of the last factor and of its gradient.
    full = [f"child.data[{node} + {k + 1}] - child.data[{node} + {k}] == {key.shape[-1]}" for k in range(2)]
    with write.block(f"for (int {node} = {start}; {node} < {stop};)"):
        with write.block(f"if ({node} + 1 < {stop} && {' && '.join(full)})"):
            _fibers(key, write, level, 2)
            write(f"{node} += 2;")
        with write.block("else"):
            _fibers(key, write, level, 1)
            write(f"{node} += 1;")


def _head(key: CpKey, write: Writer, level: int, node: str, mark: str) -> None:
    """Write the start of a node: its row, and the product of the rows down to it. ``mark`` tells nodes of a pair apart."""
    row, offset = key.vectors, sum(key.shape[:level])
    at, a, p, t = (f"{name}{level}{mark}" for name in ("at", "a", "p", "t"))
    write(f"const int {at} = ({offset} + index.data[{node}]) * {row};", f"const vec* const {a} = w + {at};")
    if level == 0:
        write(f"const vec* const {p} = {a};", f"vec* const {t} = g + {at};")
        return
    write(f"vec* const {p} = pb{level}{mark};", f"vec* const {t} = tb{level}{mark};")
    with write.loop("q", 0, row):
        write(f"{p}[q] = p{level - 1}[q] * {a}[q];", f"{t}[q] = zero;")


def _tail(key: CpKey, write: Writer, level: int, mark: str) -> None:
    """Write the end of a node: its share of the gradient, and what it hands up. A root has put its own in place already."""
    if level:
        write(f"vec* const g{level}{mark} = g + at{level}{mark};")
        with write.loop("q", 0, key.vectors):
            write(f"g{level}{mark}[q] += t{level}{mark}[q] * p{level - 1}[q];")
            write(f"t{level - 1}[q] += t{level}{mark}[q] * a{level}{mark}[q];")


def _fibers(key: CpKey, write: Writer, level: int, count: int) -> None:
    """Write what ``count`` fibers with the same observed entries do."""
    marks = ["", "_"][:count]
    for k, mark in enumerate(marks):
        _head(key, write, level, f"n{level} + {k}", mark)
        write(f"int e{mark} = child.data[n{level} + {k}];")
    write(f"const int end = child.data[n{level} + 1];")
    block = LEAVES
    while block:
        with write.block(f"for (; e + {block} <= end; {', '.join(f'e{mark} += {block}' for mark in marks)})"):
            _leaves(key, write, level, block, marks)
        block //= 2
    for mark in marks:
        _tail(key, write, level, mark)


def _losses(key: CpKey, write: Writer, predictions: list[str], observed: list[str]) -> None:
    """Write the losses of entries and their slopes, side by side: a vector of functions takes hardly longer than one."""
    for n, start in enumerate(range(0, len(predictions), key.width)):
        some = slice(start, start + key.width)
        write(f"const vec p_{n} = {{{', '.join(predictions[some])}}}, y_{n} = {{{', '.join(observed[some])}}};")
        write(f"vec loss{n}, slope{n};", f"loss_.of(p_{n}, y_{n}, loss{n}, slope{n});")


def _leaves(key: CpKey, write: Writer, level: int, count: int, marks: list[str]) -> None:
    """Write what ``count`` observed entries of each fiber do: residuals, then gradients."""
    row, offset = key.vectors, sum(key.shape[:-1])
    chains = max(1, CHAINS // (count * len(marks)))
    while row % chains:
        chains //= 2
    cells = [f"{f}{mark}" for mark in marks for f in range(count)]
    for f in range(count):
        write(f"const int j{f} = ({offset} + index.data[e + {f}]) * {row};")
        write(f"const vec* const d{f} = w + j{f};", f"vec* const gd{f} = g + j{f};")
    write(*(f"vec s{cell}c{c} = zero;" for cell in cells for c in range(chains)))
    with write.loop("q", 0, row, chains):
        for c in range(chains):
            write(*(f"const vec p{mark}c{c} = p{level}{mark}[q + {c}];" for mark in marks))
            for f in range(count):
                write(f"const vec d{f}c{c} = d{f}[q + {c}];", *(f"s{f}{mark}c{c} += p{mark}c{c} * d{f}c{c};" for mark in marks))
    for cell in cells:
        write(f"const vec s{cell} = {' + '.join(f's{cell}c{c}' for c in range(chains))};")
    lines, found = sums([f"s{cell}" for cell in cells], key.width, "f")
    write(*lines)
    places = [(f, mark, f"values.data[e{mark} + {f}]") for mark in marks for f in range(count)]
    if key.loss is not None:
        _losses(key, write, found, [seen for _, _, seen in places])
    for n, ((f, mark, seen), value) in enumerate(zip(places, found, strict=True)):
        residual = f"r{f}{mark}"
        if key.loss is None:
            write(f"real {residual} = {value} - {seen};", f"total += {residual} * {residual};")
        else:
            some, place = divmod(n, key.width)
            write(f"real {residual} = slope{some}[{place}];", f"total += loss{some}[{place}];")
        disturbed = course_of(key).disturbed(residual, f"e{mark} + {f} - first_")
        write(*([] if disturbed == residual else [f"{residual} = {disturbed};"]), f"{residual} *= {key.update.outer};")
    with write.loop("q", 0, row):
        write(*(f"const vec p{mark} = p{level}{mark}[q]; vec t{mark} = t{level}{mark}[q];" for mark in marks))
        for f in range(count):
            write(f"const vec d{f}q = d{f}[q];", *(f"t{mark} += r{f}{mark} * d{f}q;" for mark in marks))
            write(f"vec gd{f}q = gd{f}[q];", *(f"gd{f}q += r{f}{mark} * p{mark};" for mark in marks))
            write(f"gd{f}[q] = gd{f}q;")
        write(*(f"t{level}{mark}[q] = t{mark};" for mark in marks))
