"""From PyTorch's operations to steps: a row for each that kernels can do. What has no row is called as it is, over lanes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workloads.factorizations.graphs.builder import Builder, Untraceable, Value
from workloads.factorizations.graphs.views import View

Lowering = Callable[..., Value]
LOWERINGS: dict[str, Lowering] = {}
"""By the name of the operation, without the overload. Each takes a `Builder` and the operation's arguments."""

SAME = (
    *("exp", "log", "log1p", "expm1", "sin", "cos", "tan", "tanh", "sinh", "cosh", "atan", "asin", "acos", "sigmoid", "erf"),
    *("abs", "neg", "sqrt", "rsqrt", "reciprocal", "sign", "maximum", "minimum", "relu"),
)
COMPARED = ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not")
MOVES = (
    *("index", "index_select", "gather", "flip", "roll", "tril", "triu", "cat", "stack", "repeat", "unfold", "diag_embed"),
    *("slice_backward", "select_backward", "diagonal_backward", "slice_scatter", "select_scatter", "diagonal_scatter"),
)
MOST_SQUARED = 64
"""Whole powers up to this one are products of squares; a function takes as long as thirty."""


def lowers(*names: str) -> Callable[[Lowering], Lowering]:
    """Register what follows for operations of these ``names``."""

    def register(function: Lowering) -> Lowering:
        LOWERINGS.update(dict.fromkeys(names, function))
        return function

    return register


def _elementwise(name: str) -> Lowering:
    return lambda build, *inputs, **_: build.map(name, *inputs)


LOWERINGS.update({name: _elementwise(name) for name in (*SAME, *COMPARED)})
LOWERINGS["sgn"] = LOWERINGS["sign"]
LOWERINGS["bitwise_and"], LOWERINGS["bitwise_or"], LOWERINGS["bitwise_not"] = (_elementwise(name) for name in COMPARED[-3:])


@lowers("add")
def _add(build: Builder, a: Value, b: Value, alpha: float = 1) -> Value:
    return build.map("add", a, b if alpha == 1 else build.map("mul", b, float(alpha)))


@lowers("sub")
def _sub(build: Builder, a: Value, b: Value, alpha: float = 1) -> Value:
    return build.map("sub", a, b if alpha == 1 else build.map("mul", b, float(alpha)))


@lowers("rsub")
def _rsub(build: Builder, a: Value, b: Value, alpha: float = 1) -> Value:
    return _sub(build, b, a, alpha)


@lowers("mul")
def _mul(build: Builder, a: Value, b: Value) -> Value:
    return build.map("mul", a, b)


@lowers("div")
def _div(build: Builder, a: Value, b: Value, rounding_mode: str | None = None) -> Value:
    if rounding_mode is not None:
        raise NotImplementedError
    return build.map("div", a, b)


@lowers("pow")
def _pow(build: Builder, base: Value, exponent: Value) -> Value:
    power = float(exponent) if isinstance(exponent, int | float) else None
    if power == 1:
        return base
    if power in (2, 3) and isinstance(base, View):
        square = build.map("mul", base, base)
        return square if power == 2 else build.map("mul", square, base)
    if power is not None and power.is_integer() and 3 < power <= MOST_SQUARED and isinstance(base, View):
        squares = _pow(build, build.map("mul", base, base), power // 2)
        return squares if power % 2 == 0 else build.map("mul", squares, base)
    if power in (0.5, -1, -0.5):
        return build.map({0.5: "sqrt", -1: "reciprocal", -0.5: "rsqrt"}[power], base)
    return build.map("pow", base, exponent)


@lowers("square")
def _square(build: Builder, x: Value) -> Value:
    return build.map("mul", x, x)


@lowers("where")
def _where(build: Builder, condition: Value, a: Value, b: Value) -> Value:
    return build.map("where", condition, a, b)


@lowers("masked_fill")
def _masked_fill(build: Builder, x: Value, mask: Value, value: Value) -> Value:
    return build.map("where", mask, value, x)


@lowers("isnan")
def _isnan(build: Builder, x: Value) -> Value:
    return build.map("ne", x, x)


@lowers("clamp_max")
def _clamp_max(build: Builder, x: Value, high: Value) -> Value:
    return build.map("minimum", x, high)


@lowers("clamp", "clamp_min")
def _clamp(build: Builder, x: Value, low: Value | None = None, high: Value | None = None, **named: Value) -> Value:
    low, high = named.get("min", low), named.get("max", high)
    x = x if low is None else build.map("maximum", x, low)
    return x if high is None else build.map("minimum", x, high)


@lowers("clone", "alias", "detach", "contiguous", "lift_fresh_copy", "positive")
def _same(build: Builder, x: Value, **_: Any) -> Value:  # noqa: ARG001
    return x


@lowers("_to_copy", "to")
def _converted(build: Builder, x: Value, dtype: torch.dtype | None = None, **_: Any) -> Value:
    if dtype not in (None, build.dtype):
        raise NotImplementedError
    # Truths become numbers.
    return x if dtype is None else build.map("copy", x)


@lowers("copy")
def _copy(build: Builder, into: Value, x: Value, *_: Any) -> Value:
    return build.view(x, into.shape) if isinstance(into, View | Tensor) else x


@lowers("zeros_like", "new_zeros", "empty_like", "new_empty", "new_empty_strided")
def _zeros(build: Builder, x: View, size: list[int] | None = None, *_: Any, **__: Any) -> Value:
    return torch.zeros(x.shape if size is None else size, dtype=build.dtype)


@lowers("ones_like", "new_ones")
def _ones(build: Builder, x: View, size: list[int] | None = None, **_: Any) -> Value:
    return torch.ones(x.shape if size is None else size, dtype=build.dtype)


@lowers("full_like")
def _full_like(build: Builder, x: View, value: float, **_: Any) -> Value:
    return torch.full(x.shape, value, dtype=build.dtype)


@lowers("new_full")
def _new_full(build: Builder, _: View, size: list[int], value: float, **__: Any) -> Value:
    return torch.full(size, value, dtype=build.dtype)


@lowers("permute")
def _permute(build: Builder, x: View, dims: list[int]) -> Value:  # noqa: ARG001
    return x.permuted([d % len(x.axes) for d in dims])


@lowers("transpose")
def _transpose(build: Builder, x: View, one: int, other: int) -> Value:  # noqa: ARG001
    order = list(range(len(x.axes)))
    order[one], order[other] = order[other], order[one]
    return x.permuted(order)


@lowers("t")
def _t(build: Builder, x: View) -> Value:  # noqa: ARG001
    return x.permuted(range(len(x.axes))[::-1])


@lowers("view", "reshape", "_unsafe_view", "_reshape_alias")
def _view(build: Builder, x: View, shape: list[int], *_: Any) -> Value:
    return build.reshaped(x, shape)


@lowers("expand")
def _expand(build: Builder, x: View, shape: list[int], **_: Any) -> Value:  # noqa: ARG001
    return x.expanded(shape)


@lowers("unsqueeze")
def _unsqueeze(build: Builder, x: View, dim: int) -> Value:
    shape = list(x.shape)
    shape.insert(dim % (len(shape) + 1), 1)
    return build.reshaped(x, shape)


@lowers("squeeze")
def _squeeze(build: Builder, x: View, dims: int | list[int] | None = None) -> Value:
    order = len(x.axes)
    among = range(order) if dims is None else [d % order for d in ([dims] if isinstance(dims, int) else dims)]
    return build.reshaped(x, [size for n, size in enumerate(x.shape) if size != 1 or n not in among])


@lowers("slice")
def _slice(build: Builder, x: View, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Value:
    dim %= len(x.axes)
    first, last, by = slice(start, end, step).indices(x.shape[dim])
    found = x.sliced(dim, first, last, by)
    if found is None:
        found = build.copied(x).sliced(dim, first, last, by)
    assert found is not None, "what is contiguous has digits for a slice"
    return found


@lowers("select")
def _select(build: Builder, x: View, dim: int, index: int) -> Value:  # noqa: ARG001
    dim %= len(x.axes)
    return x.selected(dim, index % x.shape[dim])


@lowers("diagonal")
def _diagonal(build: Builder, x: View, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    places = torch.arange(x.size).view(x.shape)
    return build.move([x], torch.diagonal(places, offset, dim1, dim2).clone())


@lowers("mm")
def _mm(build: Builder, a: Value, b: Value) -> Value:
    left, right = build.view(a), build.view(b)
    out = build.product(build.reshaped(left, (1, *left.shape)), build.reshaped(right, (1, *right.shape)))
    return build.reshaped(out, out.shape[1:])


@lowers("bmm")
def _bmm(build: Builder, a: Value, b: Value) -> Value:
    return build.product(build.view(a), build.view(b))


@lowers("mv")
def _mv(build: Builder, a: Value, b: Value) -> Value:
    left, right = build.view(a), build.view(b)
    out = build.product(build.reshaped(left, (1, *left.shape)), build.reshaped(right, (1, *right.shape, 1)))
    return build.reshaped(out, left.shape[:1])


@lowers("dot")
def _dot(build: Builder, a: Value, b: Value) -> Value:
    left, right = build.view(a), build.view(b)
    return build.reshaped(build.product(build.reshaped(left, (1, 1, left.size)), build.reshaped(right, (1, right.size, 1))), ())


@lowers("sum")
def _sum(build: Builder, x: Value, dims: list[int] | None = None, keepdim: bool = False, **_: Any) -> Value:
    return build.reduce("sum", build.view(x), dims or (), keepdim)


@lowers("mean")
def _mean(build: Builder, x: Value, dims: list[int] | None = None, keepdim: bool = False, **_: Any) -> Value:
    view = build.view(x)
    total = build.reduce("sum", view, dims or (), keepdim)
    return build.map("mul", total, total.size / view.size)


@lowers("amax", "max")
def _amax(build: Builder, x: Value, dims: list[int] | None = None, keepdim: bool = False) -> Value:
    _several(dims)
    return build.reduce("amax", build.view(x), dims or (), keepdim)


@lowers("amin", "min")
def _amin(build: Builder, x: Value, dims: list[int] | None = None, keepdim: bool = False) -> Value:
    _several(dims)
    return build.reduce("amin", build.view(x), dims or (), keepdim)


def _several(dims: Any) -> None:
    """Refuse the overload over one dimension, which returns places, too."""
    if isinstance(dims, int | View | Tensor):
        raise NotImplementedError


@lowers("index_put", "_unsafe_index_put")
def _index_put(build: Builder, into: Value, where: list[Tensor | None], values: Value, accumulate: bool = False) -> Value:
    shape = into.shape if isinstance(into, View | Tensor) else ()
    if not accumulate or any(isinstance(index, View) for index in where):
        raise NotImplementedError
    places = torch.arange(_count(shape)).view(shape)[tuple(slice(None) if index is None else index for index in where)]
    added = build.view(values, places.shape)
    total = build.reshaped(build.move([added], places, size=_count(shape)), shape)
    return total if isinstance(into, Tensor) and not into.any() else build.map("add", into, total)


def _count(shape: Any) -> int:
    return int(torch.Size(shape).numel())


@lowers("constant_pad_nd")
def _pad(build: Builder, x: Value, pads: list[int], value: float = 0) -> Value:
    if value != 0:
        raise NotImplementedError
    return moved(build, torch.ops.aten.constant_pad_nd.default, (x, pads), {})


def moved(build: Builder, operation: Any, arguments: Any, keywords: Any) -> Value:
    """Return what an operation makes that only moves entries: numbered ones are sent through it."""
    sources: list[Value] = []
    counts: list[int] = [0]

    def numbered(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(numbered, value))
        if isinstance(value, Tensor) and value.is_floating_point() and not value.any():
            return torch.zeros(value.shape, dtype=torch.float64)
        if not isinstance(value, View) and not (isinstance(value, Tensor) and value.is_floating_point()):
            return value
        sources.append(value)
        counts.append(counts[-1] + _count(value.shape))
        return torch.arange(counts[-2] + 1, counts[-1] + 1, dtype=torch.float64).view(value.shape)

    table = operation(*numbered(list(arguments)), **keywords)
    return build.move(sources, table.long() - 1)


def lowered(build: Builder, operation: Any, arguments: Any, keywords: Any) -> Value:
    """Return what an operation makes, as steps. Raises `NotImplementedError` where there is no row for it."""
    name = operation.overloadpacket.__name__
    if name in LOWERINGS:
        return LOWERINGS[name](build, *arguments, **keywords)
    if name in MOVES:
        return moved(build, operation, arguments, keywords)
    if torch.Tag.nondeterministic_seeded in operation.tags:
        raise Untraceable("it draws random numbers")
    raise NotImplementedError
