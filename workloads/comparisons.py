"""Comparisons of columns, values of which may be text or missing. numpy is imported when something is compared."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable
from typing import Any

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


def undefined(value: Any, op: ast.cmpop | None = None) -> Any:
    """Return where there is no value, or none that can be compared by ``op``."""
    import numpy as np

    if isinstance(value, list):
        return anywhere(undefined(item) for item in value)
    array = number(value) if isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) else np.asarray(value)
    if array.dtype.kind == "O":
        return np.logical_or(array == None, array != array)  # noqa: E711
    return np.isnan(array) if array.dtype.kind == "f" else np.False_


def anywhere(tables: Iterable[Any]) -> Any:
    """Return where one of some tables is true; nowhere if there are none."""
    import numpy as np

    found: Any = np.False_
    for table in tables:
        found = np.logical_or(found, table)
    return found


def slack(op: ast.cmpop, left: Any, right: Any) -> Any:
    """Return by how much one side is below or above the other as ``op`` wants it, relative to their size; negative where it is not."""
    import numpy as np

    left, right = np.asarray(number(left), dtype=np.float64), np.asarray(number(right), dtype=np.float64)
    gap = right - left if isinstance(op, ast.Lt | ast.LtE) else left - right
    size = np.maximum(np.abs(left), np.abs(right))
    # What is equal holds by nothing, which is enough for "at most" and not for "less than".
    least = -np.finfo(np.float64).tiny if isinstance(op, ast.Lt | ast.Gt) else 0.0
    return np.where(gap == 0, least, np.where(np.isinf(size), np.sign(gap), gap / np.where(size > 0, size, 1.0)))


def compare(op: ast.cmpop, left: Any, right: Any) -> Any:
    """Return where two sides compare as ``op`` says; the right one of ``in`` is a list."""
    import numpy as np

    if isinstance(op, ast.In | ast.NotIn):
        found = np.logical_or.reduce(np.broadcast_arrays(*(compare(ast.Eq(), left, item) for item in right)))
        return found if isinstance(op, ast.In) else np.logical_not(found)
    if isinstance(op, ast.Eq | ast.NotEq):
        return _COMPARE[type(op)](np.asarray(left), right)
    return _COMPARE[type(op)](number(left), number(right))


def truth(value: Any) -> Any:
    """Return true or false; a missing value (NaN) is neither and counts as false."""
    import numpy as np

    array = np.asarray(value)
    return array if array.dtype == np.bool_ else array == True  # noqa: E712


def number(value: Any) -> Any:
    """Return a value fit for arithmetic: text is not a number."""
    import numpy as np

    array = np.asarray(value)
    if array.dtype.kind in "OUS":
        numbers = np.full(array.shape, np.nan)
        for place, item in np.ndenumerate(array):
            if isinstance(item, int | float):
                numbers[place] = item
        return numbers
    return array.astype(np.float64) if array.dtype.kind in "iub" else array
