"""Comparisons of a number with a text, which never hold and are slips: of the loss with the name of a loss, say."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Collection, Iterator

from orchestrator.grid.quoting import shown
from workloads.expressions import OVER_TRACE, Expression


def mixed(text: str, texts: Collection[str], numbers: Collection[str]) -> Iterator[str]:
    """Yield what is wrong with each comparison of a column of ``numbers`` with a text in an expression, or of ``texts`` with a number."""
    expression = Expression(text)
    for node in ast.walk(expression.tree):
        if not isinstance(node, ast.Compare):
            continue
        sides = [_named(side, expression) for side in (node.left, *node.comparators)]
        for pair in itertools.pairwise(sides):
            for (name, _), (other, given) in (pair, pair[::-1]):
                if name in texts:
                    wrong = next((value for value in given if _is_number(value)), other if _is_measured(other, numbers) else None)
                    if wrong is not None:
                        yield f"{name} is text, and {wrong} a number: they cannot be compared"
                elif _is_measured(name, numbers):
                    slip = next((value for value in given if isinstance(value, str)), None)
                    if slip is not None:
                        hint = "the kind of the loss is spec.loss" if name == "loss" else "they cannot be compared"
                        yield f"{name} is a number, and {shown(slip)} text: {hint}"


def _named(side: ast.expr, expression: Expression) -> tuple[str | None, tuple[object, ...]]:
    """Return the column that a side of a comparison is, or the values that it gives."""
    match side:
        case ast.Name(id=name):
            return expression.columns.get(name), ()
        case ast.Constant(value=value):
            return None, (value,)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return None, tuple(item.value for item in items if isinstance(item, ast.Constant))
    return None, ()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_measured(name: str | None, numbers: Collection[str]) -> bool:
    """Return whether a column holds numbers, itself or as one over a trace."""
    return name is not None and (name in numbers or name.partition("(")[0] in OVER_TRACE)
