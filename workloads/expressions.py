"""Expressions over the columns of a sweep: ``abs(entry_0_0) >= (1 - sqrt(2 * loss)) ** 2 / sqrt(2 * loss)``.

Figures, claims and conditions to stop are written in them. A name is a column of the traces or of the table of trials: a measure
(``schatten_0.5``), a dotted key of the spec (``optimizer.lr``), ``step``, ``steps``, ``seconds`` or ``outcome``. Only what is listed here
is understood, so that a grid file from elsewhere can do no harm. numpy is imported when an expression is evaluated, not when it is read.
"""

from __future__ import annotations

import ast
import copy
import math
import operator
import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from workloads.comparisons import anywhere, compare, number, slack, truth, undefined

MAX_LENGTH = 1000
MAX_DIGITS = 100
"""Of a number. Whole ones of more than 300 are too large for floating point."""
OVER_TRACE = ("first", "lowest", "highest")
"""Functions from a measure over a trial's whole trace to one value of the trial."""
FUNCTIONS = {
    "abs": "absolute",
    "sqrt": "sqrt",
    "exp": "exp",
    "log": "log",
    "log10": "log10",
    "sign": "sign",
    "round": "round",
    "floor": "floor",
    "ceil": "ceil",
    "isfinite": "isfinite",
    "min": "minimum",
    "max": "maximum",
}
"""Functions by their name in numpy."""
CONSTANTS: dict[str, Any] = {"true": True, "false": False, "True": True, "False": False, "pi": 3.141592653589793, "inf": float("inf")}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_TOKEN = re.compile(
    r"(?P<text>'[^'\\\n]*'|\"[^\"\\\n]*\")|(?P<number>(?:\d+(?:_\d+)*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)"
    r"|(?P<name>[A-Za-z_]\w*(?:\.\w+)*(?:(?<!\bin)\[\d{1,3}\])?)|(?P<other>\s+|\*\*|[<>=!]=|[-+*/()<>,\[\]])"
)
_KEYWORDS = {"and", "or", "not", "in"}


class ExpressionError(ValueError):
    """An expression that is not understood; the message says what and where."""


@dataclass(frozen=True)
class Expression:
    """A parsed expression. Raises `ExpressionError` when made from a text that is not understood."""

    text: str
    names: tuple[str, ...] = field(init=False)
    """The columns that it needs; ``lowest(det)`` and its like are columns of the table of trials."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(dict.fromkeys(self._parsed.names)))

    @cached_property
    def _parsed(self) -> _Parsed:
        return _parse(self.text)

    @property
    def tree(self) -> ast.expr:
        """What was parsed, of the nodes that are listed here; names in it stand for `columns`."""
        return self._parsed.tree

    @property
    def columns(self) -> Mapping[str, str]:
        """The columns by the names that stand for them in `tree`."""
        return self._parsed.columns

    @property
    def spelled(self) -> str:
        """The expression as it is written here: one text for all that differ in spaces and brackets alone."""
        tree = copy.deepcopy(self._parsed.tree)
        for part in ast.walk(tree):
            if isinstance(part, ast.Name):
                part.id = self._parsed.columns.get(part.id, part.id)
        return ast.unparse(tree)

    @property
    def is_condition(self) -> bool:
        """True if the value is true or false, as far as can be told without data: a comparison, or a combination of such."""
        return isinstance(self._parsed.tree, ast.Compare | ast.BoolOp) or (
            isinstance(self._parsed.tree, ast.UnaryOp) and isinstance(self._parsed.tree.op, ast.Not)
        )

    def evaluate(self, columns: Mapping[str, Any]) -> Any:
        """Return the value for ``columns``, arrays [K] by name: an array [K], or a single value if it needs no column.

        Where something is undefined (the logarithm of a negative number, a measure without a value) it is NaN, and whatever is compared
        with it, neither that nor its opposite holds. A key that a trial does not have is defined: it equals nothing and is below nothing.
        """
        import numpy as np

        with np.errstate(all="ignore"):
            return self._value(self._parsed.tree, columns)

    def may_hold(self, columns: Mapping[str, Any], known: Container[str]) -> Any:
        """Return where a condition may hold [K] if of ``columns`` only those that are ``known`` have values."""
        import numpy as np

        with np.errstate(all="ignore"):
            return self._sides(self._parsed.tree, columns, known)[0]

    def holds_from(self, column: str) -> float:
        """Return from which value of a column on a condition holds, whatever all others are; infinity where there is none."""
        import numpy as np

        with np.errstate(all="ignore"):
            return self._holds_from(self._parsed.tree, column)

    def _holds_from(self, node: ast.expr, column: str) -> float:
        match node:
            case ast.BoolOp(op=op, values=parts):
                return (min if isinstance(op, ast.Or) else max)(self._holds_from(part, column) for part in parts)
            case ast.Compare(left=left, ops=[ast.Gt() | ast.GtE() as op], comparators=[right]):
                pass
            case ast.Compare(left=right, ops=[ast.Lt() | ast.LtE() as op], comparators=[left]):
                pass
            case _:
                return math.inf
        is_it = isinstance(left, ast.Name) and self._parsed.columns.get(left.id) == column
        if not is_it or any(isinstance(part, ast.Name) and part.id in self._parsed.columns for part in ast.walk(right)):
            return math.inf
        bound = float(number(self._value(right, {})))
        return math.inf if math.isnan(bound) else math.nextafter(bound, math.inf) if isinstance(op, ast.Gt | ast.Lt) else bound

    def margin(self, columns: Mapping[str, Any]) -> Any:
        """By how much a condition holds [K], relative to the size of what is compared; negative where it does not, NaN where undefined."""
        import numpy as np

        with np.errstate(all="ignore"):
            return np.asarray(self._margin(self._parsed.tree, columns), dtype=np.float64)

    def _value(self, node: ast.expr, columns: Mapping[str, Any]) -> Any:
        import numpy as np

        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return columns[self._parsed.columns[node.id]] if node.id in self._parsed.columns else CONSTANTS[node.id]
            case ast.List() | ast.Tuple():
                return [self._value(item, columns) for item in node.elts]
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                return self._sides(node, columns)[0]
            case ast.UnaryOp():
                value = number(self._value(node.operand, columns))
                return -value if isinstance(node.op, ast.USub) else value
            case ast.BinOp():
                return _BINARY[type(node.op)](number(self._value(node.left, columns)), number(self._value(node.right, columns)))
            case ast.Call(func=ast.Name(id=name)):
                return getattr(np, FUNCTIONS[name])(*(number(self._value(argument, columns)) for argument in node.args))
        raise AssertionError(f"{ast.dump(node)} passed the check")

    def _sides(self, node: ast.expr, columns: Mapping[str, Any], known: Container[str] | None = None) -> tuple[Any, Any]:
        """Return where a condition is true, and where it is false; where columns are not ``known``, where it may be either."""
        import numpy as np

        match node:
            case ast.BoolOp(op=op):
                parts = [self._sides(value, columns, known) for value in node.values]
                true, false = (np.broadcast_arrays(*side) for side in zip(*parts, strict=True))
                every, some = np.logical_and.reduce, np.logical_or.reduce
                return (every(true), some(false)) if isinstance(op, ast.And) else (some(true), every(false))
            case ast.UnaryOp(op=ast.Not()):
                true, false = self._sides(node.operand, columns, known)
                return false, true
        found = (self._parsed.columns.get(part.id) for part in ast.walk(node) if isinstance(part, ast.Name))
        names = [name for name in found if name is not None]
        if known is not None and any(name not in known for name in names):
            return np.True_, np.True_
        if isinstance(node, ast.Compare):
            pairs = list(self._pairs(node, columns))
            value = np.logical_and.reduce(np.broadcast_arrays(*(compare(*pair) for pair in pairs)))
            nothing = anywhere(undefined(side, op) for op, *sides in pairs for side in sides)
        else:
            value = truth(single := self._value(node, columns))
            nothing = undefined(single)
        unset = anywhere(undefined(columns[name]) for name in names if _is_key(name))
        defined = np.logical_or(np.logical_not(nothing), unset)
        return np.logical_and(value, defined), np.logical_and(np.logical_not(value), defined)

    def _pairs(self, node: ast.Compare, columns: Mapping[str, Any]) -> Iterator[tuple[ast.cmpop, Any, Any]]:
        values = [self._value(side, columns) for side in (node.left, *node.comparators)]
        yield from zip(node.ops, values, values[1:], strict=False)

    def _margin(self, node: ast.expr, columns: Mapping[str, Any]) -> Any:
        import numpy as np

        match node:
            case ast.BoolOp():
                parts = np.broadcast_arrays(*(self._margin(value, columns) for value in node.values))
                if isinstance(node.op, ast.Or):
                    return np.fmax.reduce(parts)
                least = np.fmin.reduce(parts)
                # What is broken is so whatever else has no value.
                return np.where(least < 0, least, np.minimum.reduce(parts))
            case ast.Compare() if all(isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for op in node.ops):
                return np.minimum.reduce(np.broadcast_arrays(*(slack(*pair) for pair in self._pairs(node, columns))))
        true, false = self._sides(node, columns)
        return np.where(true, 1.0, np.where(false, -1.0, np.nan))


def _is_key(name: str) -> bool:
    """Return whether a column is a key of trials' specs, which some may not have, and no measure."""
    return name in ("seed", "dtype") or re.match(r"[a-z_]+\.[a-z]", name) is not None


@dataclass(frozen=True)
class _Parsed:
    """A checked tree, and the columns that its placeholder names stand for."""

    tree: ast.expr
    columns: dict[str, str]

    @property
    def names(self) -> list[str]:
        return list(self.columns.values())


def _parse(text: str) -> _Parsed:
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"is longer than {MAX_LENGTH} characters")
    if not text.strip():
        raise ExpressionError("is empty")
    columns: dict[str, str] = {}
    code = []
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            raise ExpressionError(f"has a {text[place]!r} at character {place + 1}, which is not understood")
        place = token.end()
        if len(token["number"] or "") > MAX_DIGITS:
            raise ExpressionError(f"has a number of more than {MAX_DIGITS} digits")
        name = token["name"]
        if name is None or name in _KEYWORDS or name in CONSTANTS:
            code.append(token[0].strip())
        elif name in OVER_TRACE:
            inner = re.compile(r"\s*\(\s*([A-Za-z_][\w.]*)\s*\)").match(text, place)
            if inner is None:
                raise ExpressionError(f"has {name} without a measure: write {name}(det), say")
            place = inner.end()
            code.append(_placeholder(f"{name}({inner[1]})", columns))
        elif text[place:].lstrip().startswith("("):
            if name not in FUNCTIONS:
                raise ExpressionError(f"has an unknown function {name}: known are {', '.join((*FUNCTIONS, *OVER_TRACE))}")
            code.append(name)
        else:
            code.append(_placeholder(name, columns))
    try:
        tree = ast.parse(" ".join(code), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError("is not an expression such as abs(det) > 1e-3: look for a missing operator or bracket") from error
    _check(tree, 0)
    return _Parsed(tree, columns)


def _placeholder(column: str, columns: dict[str, str]) -> str:
    """Return a name that Python can read for a column whose name it cannot."""
    for known, meant in columns.items():
        if meant == column:
            return known
    columns[name := f"_{len(columns)}"] = column
    return name


def _check(node: ast.expr, depth: int) -> None:
    """Raise `ExpressionError` for anything but what `Expression` evaluates."""
    if depth > 50:
        raise ExpressionError("is nested too deeply")
    inner: list[ast.expr]
    match node:
        case ast.Constant(value=bool() | int() | float() | str()) | ast.Name():
            inner = []
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=operand):
            inner = [operand]
        case ast.BinOp() if type(node.op) in _BINARY:
            inner = [node.left, node.right]
        case ast.BoolOp():
            inner = node.values
        case ast.Compare():
            inner = _compared(node)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            wanted = 2 if name in ("min", "max") else 1
            if len(arguments) != wanted:
                raise ExpressionError(f"gives {name} {len(arguments)} values, not {wanted}")
            inner = arguments
        case _:
            raise ExpressionError("is more than arithmetic, comparisons and the functions " + ", ".join(FUNCTIONS))
    for part in inner:
        _check(part, depth + 1)


def _compared(node: ast.Compare) -> list[ast.expr]:
    """Return what a comparison compares; lists only after ``in``, and nothing after them."""
    if any(isinstance(side, ast.List | ast.Tuple) for side in (node.left, *node.comparators[:-1])):
        raise ExpressionError("compares a list: lists come last, and after in, such as factorization.depth in [2, 3]")
    for op, right in zip(node.ops, node.comparators, strict=True):
        if isinstance(op, ast.In | ast.NotIn) != isinstance(right, ast.List | ast.Tuple):
            raise ExpressionError("uses in without a list, such as factorization.depth in [2, 3]")
        if isinstance(right, ast.List | ast.Tuple) and not right.elts:
            raise ExpressionError("looks for something in an empty list")
    sides = [node.left, *node.comparators]
    return [part for side in sides for part in (side.elts if isinstance(side, ast.List | ast.Tuple) else [side])]
