"""What kernels of groups have in common, whatever is computed in them: tables, the time loop, the stop check, and the Warp kernel.

Every number is a ``vec`` over the V lanes of a group, so that no lane touches another. A `Body` is the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from inspect import signature
from typing import Any, Protocol

from workloads.engines.kernels.course_source import Course
from workloads.engines.kernels.group_key import GroupKey
from workloads.engines.kernels.losses import TWICE, defined, made
from workloads.engines.kernels.source import GOING, Writer, everywhere, vector_type


class Body(Protocol):
    """The parts of a kernel that differ between factorizations, and between straight-line code and loops."""

    def load(self) -> None: ...

    def forward(self) -> None:
        """Write code that leaves the loss, but for its scale, in ``total``."""

    def backward(self) -> None:
        """Write code that takes the step."""

    def store(self) -> None: ...


@lru_cache(maxsize=256)
def group_kernel(key: GroupKey, body: Callable[[Any, Writer], Body]) -> Any:
    """Return the Warp kernel for ``key``. Compiled at first launch, and cached on disk by Warp.

    One thread is one group of V lanes. Arguments, all flat, tables [groups, entries] of ``vec`` (with ``threads`` [entries, groups]):
    parameters, optimizer state, observed values, masks or measurements, workspace, hyperparameters followed by the loss's scale and
    numbers; losses to stop at [groups]; steps to do and done [groups]; losses [groups]; what depends on the steps done, in words of 64 bits
    (`workloads.engines.kernels.options.Options.course`).
    """
    import warp as wp

    def advance(weights, state, seen, operators, scratch, hyper, until, steps, losses, course, group): ...  # type: ignore[no-untyped-def]

    def train(weights, state, seen, operators, scratch, hyper, until, steps, losses, course):  # type: ignore[no-untyped-def]
        native(weights, state, seen, operators, scratch, hyper, until, steps, losses, course, wp.tid())

    # Warp reads an argument's type from its annotation; these depend on the key.
    types = dict.fromkeys(signature(train).parameters, wp.array(dtype=getattr(wp, key.dtype)))
    train.__annotations__ = types | {"steps": wp.array(dtype=wp.int32), "course": wp.array(dtype=wp.int64), "return": None}
    advance.__annotations__ = train.__annotations__ | {"group": int}
    native: Any = wp.func_native(group_source(key, body))(advance)
    return wp.kernel(train, enable_backward=False, module="unique")


def group_source(key: GroupKey, body: Callable[[Any, Writer], Body]) -> str:
    """Return the C++ of a kernel."""
    write = Writer()
    write(*vector_type(key.dtype, key.lanes))
    if key.loss is not None:
        write(*defined(key.loss, "vec", key.lanes, key.dtype))
    _open_tables(key, write)
    scheduled = "schedule" in key.update.options
    write(*(f"const vec {'full_' if scheduled and name == 'lr' else name} = h[{n}];" for n, name in enumerate(key.update.hyper)))
    rate = "" if scheduled else ", rate = lr * twice"
    write(f"const vec scale = h[{len(key.update.hyper)}], twice = {TWICE[key.loss is not None]}{rate};")
    write(*made(key.loss, len(key.update.hyper) + 1))
    write("const vec low = ((vec*)until.data)[group];", "const vec zero = {}, one = zero + (real)1;", "vec total;")
    write("const int last = steps.data[group];", "int done = 0;")
    numbers = len(key.update.arrays) * key.parameters
    write(*(f"vec {name} = s[{numbers + n}];" for n, name in enumerate(key.update.numbers)))
    code, course = body(key, write), Course.of(key)
    course.define(write)
    course.load(write)
    code.load()
    with write.block("for (;; ++done)"):
        course.begin(write)
        code.forward()
        write("total *= scale;")
        going = everywhere(f"({GOING.format(none='zero')}) | (low < -one)", key.lanes)
        write(f"if (!{going} || done >= last) break;")
        code.backward()
    code.store()
    write(*(f"s[{numbers + n}] = {name};" for n, name in enumerate(key.update.numbers)))
    write("steps.data[group] = done;", "((vec*)losses.data)[group] = total;")
    return write.text


def _open_tables(key: GroupKey, write: Writer) -> None:
    """Write what a group of lanes has of each array, by the name by which it goes in a kernel."""
    tables = {
        "w": ("weights", key.parameters),
        "s": ("state", max(1, key.state)),
        "y": ("seen", key.measurements or key.size),
        "m": ("operators", max(1, key.measurements) * key.size),
        "x": ("scratch", max(1, key.workspace)),
        "h": ("hyper", len(key.update.hyper) + 1 + len(key.loss.numbers if key.loss else ())),
    }
    if key.threads:
        with write.block("struct Column"):
            write("vec* __restrict__ top;", "size_t across;")
            write("inline CUDA_CALLABLE vec& operator[](int entry) const { return top[entry * across]; }")
        write(";", "const size_t across = steps.shape[0];")
    for name, (table, size) in tables.items():
        if key.threads:
            write(f"const Column {name} = {{(vec*){table}.data + group, across}};")
        elif name == "m" and key.shared:
            write(f"const real* __restrict__ m = (const real*){table}.data;")
        else:
            write(f"vec* __restrict__ {name} = (vec*){table}.data + (size_t)group * {size};")
