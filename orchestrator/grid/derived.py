"""Values that follow from others in a trial: ``optimizer.lr: "= 0.1 / factorization.depth"``.

They are expressions over the keys of the spec, in Python's own numbers: whole ones stay whole under ``+``, ``-``, ``*`` and ``**``, as an
``observed`` that counts has to; ``/`` makes fractions, and ``round``, ``floor`` and ``ceil`` whole ones of them.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from functools import cache
from typing import Any

from workloads.expressions import CONSTANTS, Expression

LARGEST_BITS = 1024
"""Of a whole number: about as many as fit into floating point."""
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "log10": math.log10,
    "sign": lambda value: (value > 0) - (value < 0),
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
    "isfinite": math.isfinite,
    "min": min,
    "max": max,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}


class Undefined(ValueError):
    """A value that cannot be computed; the message says why."""


class Missing(Undefined):
    """A value that follows from a key that a trial does not have."""

    def __init__(self) -> None:
        super().__init__("needs a key that this trial does not have")


def is_derived(value: object) -> bool:
    """Return whether a value of a grid is an expression: text that begins with ``=``."""
    return isinstance(value, str) and value.lstrip().startswith("=")


@cache
def derivation(text: str) -> Expression:
    """Return the expression of a derived value. Raises `workloads.expressions.ExpressionError`."""
    return Expression(text.strip().removeprefix("=").strip())


def compute(expression: Expression, value_of: Callable[[str], Any], node: ast.expr | None = None) -> Any:
    """Return a value from those of single keys, ``None`` for what a trial does not have. Raises `Undefined`.

    Of the expression, or of the part of it that begins at a ``node`` of its tree.
    """
    try:
        value = _value(node or expression.tree, lambda name: _given(expression, name, value_of))
    except ZeroDivisionError as error:
        raise Undefined("divides by zero") from error
    except OverflowError as error:
        raise Undefined("is larger than floating point holds") from error
    except ValueError as error:
        raise error if isinstance(error, Undefined) else Undefined("takes a root or a logarithm where there is none") from error
    if value is None:
        raise Missing
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        raise Undefined("is not a finite number")
    if isinstance(value, int) and value.bit_length() > LARGEST_BITS:
        raise Undefined("is larger than floating point holds")
    return value


def holds(expression: Expression, value_of: Callable[[str], Any], node: ast.expr | None = None) -> bool:
    """Return whether a condition holds; a comparison with a key that a trial does not have does not. Raises `Undefined`."""
    return bool(compute(expression, value_of, node))


def _given(expression: Expression, name: str, value_of: Callable[[str], Any]) -> Any:
    return value_of(expression.columns[name]) if name in expression.columns else CONSTANTS[name]


def _value(node: ast.expr, given: Callable[[str], Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return given(node.id)
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, given)
        case ast.UnaryOp():
            value = _number(_value(node.operand, given))
            return -value if isinstance(node.op, ast.USub) else value
        case ast.BinOp():
            return _arithmetic(node.op, _number(_value(node.left, given)), _number(_value(node.right, given)))
        case ast.BoolOp(op=ast.And()):
            return all(_value(part, given) for part in node.values)
        case ast.BoolOp():
            return any(_value(part, given) for part in node.values)
        case ast.Compare():
            sides = [node.left, *node.comparators]
            return all(_compare(op, left, right, given) for op, left, right in zip(node.ops, sides, sides[1:], strict=False))
        case ast.Call(func=ast.Name(id=name)):
            return _FUNCTIONS[name](*(_number(_value(argument, given)) for argument in node.args))
    raise AssertionError(f"{ast.dump(node)} passed the check")


def _number(value: Any) -> Any:
    if value is None:
        raise Missing
    if not isinstance(value, int | float):
        raise Undefined("computes with what is no number")
    return value


def _arithmetic(op: ast.operator, left: Any, right: Any) -> Any:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow():
            # Whole numbers of a million digits take minutes.
            large = isinstance(left, int) and isinstance(right, int) and abs(left).bit_length() * abs(right) > LARGEST_BITS
            return float(left) ** right if large else left**right
    raise AssertionError(f"{op} passed the check")


def _compare(op: ast.cmpop, left: ast.expr, right: ast.expr, given: Callable[[str], Any]) -> bool:
    try:
        one = _value(left, given)
        others = [_value(item, given) for item in (right.elts if isinstance(right, ast.List | ast.Tuple) else [right])]
    except Missing:
        return False
    if one is None or None in others:
        # As everywhere, no comparison with what is missing holds.
        return False
    if isinstance(op, ast.In | ast.NotIn):
        return (one in others) == isinstance(op, ast.In)
    (other,) = others
    if isinstance(op, ast.Eq | ast.NotEq):
        return bool(one == other) == isinstance(op, ast.Eq)
    # What is no number is neither less nor more than anything.
    return all(isinstance(side, int | float) for side in (one, other)) and _COMPARE[type(op)](one, other)
