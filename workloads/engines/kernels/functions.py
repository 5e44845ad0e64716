"""Elementwise functions inside generated kernels, as C++ of ``vec``."""

from __future__ import annotations

from collections.abc import Set

from workloads.engines.kernels.elementary import FUNCTIONS, written
from workloads.engines.kernels.source import root

TRUTH = "(({condition}) ? one : zero)"
ARITHMETIC = {
    "add": "({0} + {1})",
    "sub": "({0} - {1})",
    "mul": "({0} * {1})",
    "div": "({0} / {1})",
    "neg": "(-{0})",
    "copy": "{0}",
    "reciprocal": "(one / {0})",
    # What is not a number stays what it is.
    "abs": "({0} < zero ? -{0} : {0})",
    "relu": "((({0} > zero) | ({0} != {0})) ? {0} : zero)",
    "maximum": "((({0} > {1}) | ({0} != {0})) ? {0} : {1})",
    "minimum": "((({0} < {1}) | ({0} != {0})) ? {0} : {1})",
    "sign": "(({0} > zero ? one : zero) - ({0} < zero ? one : zero))",
    "where": "({0} != zero ? {1} : {2})",
    **{
        name: TRUTH.format(condition=f"{{0}} {sign} {{1}}")
        for name, sign in (("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="))
    },
    "logical_and": TRUTH.format(condition="({0} != zero) & ({1} != zero)"),
    "logical_or": TRUTH.format(condition="({0} != zero) | ({1} != zero)"),
    "logical_not": TRUTH.format(condition="{0} == zero"),
}
CALLED = ("sin", "cos", "tan", "atan", "asin", "acos", "erf", "pow")
"""Functions of the C library, number by number: a vector of them would have other bits than a lone number."""
KNOWN = frozenset({*ARITHMETIC, *CALLED, *FUNCTIONS, "sqrt", "rsqrt", "sigmoid"})


def definitions(names: Set[str], width: int, dtype: str, kind: str = "vec") -> list[str]:
    """Return a ``struct Each`` with those of ``names`` that are functions of numbers, as functions of a ``kind`` of so many."""
    named = {"exp" if name == "sigmoid" else name for name in names}
    called = sorted(named & {*CALLED})
    if not named & {*CALLED, *FUNCTIONS}:
        return []
    lines = ["struct Each {", *written(named, dtype, width, kind)]
    for name in called:
        given = ("a", "b") if name == "pow" else ("a",)
        head = f"    static inline CUDA_CALLABLE {kind} {name}_of({', '.join(f'{kind} {g}' for g in given)}) {{"
        if width == 1:
            lines.append(f"{head} return real({name}({', '.join(given)})); }}")
        else:
            numbers = ", ".join(f"{g}[n]" for g in given)
            lines.append(f"{head} {kind} o; for (int n = 0; n < {width}; ++n) o[n] = real({name}({numbers})); return o; }}")
    return [*lines, "};"]


def applied(name: str, inputs: list[str], width: int) -> str:
    """Return the code of a function of expressions, which are variables or numbers."""
    if name in ARITHMETIC:
        return ARITHMETIC[name].format(*inputs)
    if name in CALLED or name in FUNCTIONS:
        return f"Each::{name}_of({', '.join(inputs)})"
    if name == "sigmoid":
        return f"(one / (one + Each::exp_of(-{inputs[0]})))"
    rooted = root(inputs[0], width)
    if name not in ("sqrt", "rsqrt"):
        raise NotImplementedError(f"no kernel has {name}")
    return rooted if name == "sqrt" else f"(one / {rooted})"


def number(value: float) -> str:
    """Return a number as a ``vec``."""
    return f"(zero + (real){value!r})"
