"""Tables as people read them: plain text, Markdown, and LaTeX with booktabs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from orchestrator.analysis.tables import Column, Table

DIGITS = 3
"""Of numbers in papers and of statistics."""
LONG = 1e6
"""Numbers below this are written without a power of ten where that takes no fraction."""
_ESCAPES = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
}
Text = Callable[[Any], str]


def rows_of(table: Table, columns: Sequence[Column], digits: int) -> list[list[str]]:
    """Return the cells of ``columns`` as plain text, numbers with so many ``digits``."""
    return [list(row) for row in zip(*(_cells(table, column, lambda value: plain_cell(value, digits)) for column in columns), strict=True)]


def notes_of(table: Table, text: Text = str) -> Iterator[str]:
    """Yield what is to be said below a table: what its numbers are, and what is the same in all rows."""
    if table.caption:
        yield table.caption
    _, same = table.split()
    if same:
        yield "same for all: " + ", ".join(f"{text(name)} {text(value)}" for name, value in same.items())


def plain_cell(value: Any, digits: int) -> str:
    """Return a value as plain text: nothing for what is missing."""
    if _is_missing(value):
        return ""
    if not isinstance(value, float):
        return str(value)
    # Rather 1424 than 1.42e+03.
    return f"{value:.0f}" if 10**digits <= abs(value) < LONG else f"{value:.{digits}g}"


def markdown(table: Table) -> str:
    """Return a table as GitHub and most others read it."""
    columns, _ = table.split()
    header = [_marked(column.name) for column in columns]
    rules = ["---:" if is_numeric(table, column) else "---" for column in columns]
    cells = [[_marked(cell) for cell in row] for row in rows_of(table, columns, DIGITS)]
    lines = ["| " + " | ".join(row) + " |" for row in (header, rules, *cells)]
    notes = [f"\n{text[0].upper()}{text[1:]}." for text in notes_of(table, lambda value: _marked(plain_cell(value, DIGITS)))]
    return "\n".join([*lines, *notes]) + "\n"


def latex(table: Table) -> str:
    """Return a table as a float of LaTeX, which needs the package booktabs."""
    columns, _ = table.split()
    rows = zip(*(_cells(table, column, latex_cell) for column in columns), strict=True)
    notes = [f"{text[0].upper()}{text[1:]}." for text in notes_of(table, latex_cell)]
    lines = [
        "% \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        *([rf"\caption{{{' '.join(notes).replace('±', _ESCAPES['±'])}}}"] if notes else []),
        *tabular([column.name for column in columns], rows, "".join("r" if is_numeric(table, column) else "l" for column in columns)),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def tabular(header: Sequence[str], rows: Iterable[Sequence[str]], alignment: str) -> list[str]:
    """Return the lines of a ``tabular`` with rules of booktabs: a header of text over cells that are LaTeX already."""
    return [
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(map(escaped, header)) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def latex_cell(value: Any) -> str:
    """Return a value for LaTeX: a number as mathematics, with a power of ten where it is large or small, anything else escaped."""
    if _is_missing(value):
        return "--"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return escaped(str(value))
    return f"${_number(value)}$"


def _cells(table: Table, column: Column, text: Text) -> list[str]:
    """Return a column's cells; ``text`` says how a value is written, and whether as mathematics."""
    parts = [[_plain(value) for value in table.frame[part]] for part in column.parts]
    math_like = text is latex_cell
    if len(parts) == 1:
        return [text(value) for value in parts[0]]
    if len(parts) == 2:
        return [_spread(value, spread, text, math_like=math_like) for value, spread in zip(*parts, strict=True)]
    return [_range(*row, text=text, math_like=math_like) for row in zip(*parts, strict=True)]


def _spread(value: Any, spread: Any, text: Text, *, math_like: bool) -> str:
    """Return ``value ± spread``; in mathematics with a power of ten that both share."""
    if _is_missing(spread) or _is_missing(value):
        return text(value)
    if not math_like:
        return f"{text(value)} ± {text(spread)}"
    power = _power(max(abs(value), abs(spread)))
    if not power or not math.isfinite(value) or not math.isfinite(spread):
        return rf"${_number(value)} \pm {_number(spread)}$"
    one, other = (f"{number / 10**power:.{DIGITS - 1}f}" for number in (value, spread))
    return rf"$({one} \pm {other}) \times 10^{{{power}}}$"


def _range(value: Any, low: Any, high: Any, *, text: Text, math_like: bool) -> str:
    """Return ``value [low, high]``, or the value alone where all are the same."""
    if _is_missing(value) or value == low == high:
        return text(value)
    if math_like:
        return rf"${_number(value)}\ [{_number(low)},\ {_number(high)}]$"
    return f"{text(value)} [{text(low)}, {text(high)}]"


def _number(value: float) -> str:
    """Return a number as mathematics, without its dollars."""
    if math.isinf(value):
        return r"\infty" if value > 0 else r"-\infty"
    power = _power(value)
    if not power or (abs(value) < LONG and value == int(value)):
        return plain_cell(value, DIGITS)
    mantissa, _, exponent = f"{value:.{DIGITS - 1}e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    ten = f"10^{{{int(exponent)}}}"
    return ten if mantissa == "1" else f"-{ten}" if mantissa == "-1" else rf"{mantissa} \times {ten}"


def _power(value: float) -> int:
    """Return the power of ten that is written of a number; 0 if none."""
    if not value or not math.isfinite(value):
        return 0
    power = math.floor(math.log10(abs(value)))
    return power if power < -2 or power > 5 else 0


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any) -> Any:
    """Return a value of NumPy's as one of Python's."""
    return value.item() if hasattr(value, "item") else value


def is_numeric(table: Table, column: Column) -> bool:
    """Return whether a column is of numbers, or of statistics."""
    dtype = table.frame[column.parts[0]].dtype
    return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)


def escaped(text: str) -> str:
    """Return text in which LaTeX sees nothing of its own."""
    return re.sub(r"[&%$#_{}\\~^<>|±]", lambda found: _ESCAPES[found[0]], text)


def _marked(text: str) -> str:
    """Return text in which Markdown sees nothing of its own."""
    return re.sub(r"([\\|*_<>\[\]`])", r"\\\1", text)
