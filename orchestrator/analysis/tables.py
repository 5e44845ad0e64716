"""Tables of trials: which of them, in which order and with which columns; or a row for each group of trials, with statistics over it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.results import IDENTITY, Results
from orchestrator.analysis.statistics import quantiles
from orchestrator.errors import UsageError
from orchestrator.grid.questions import read_condition, read_formula
from orchestrator.grid.quoting import nearest
from orchestrator.grid.summaries import rate_in
from workloads.expressions import Expression
from workloads.training.trial_state import Outcome

AUTO = "auto"
"""Stands for all keys that tell trials apart, besides seeds."""
TROUBLE = (Outcome.DIVERGED.value, Outcome.FAILED.value)
"""Outcomes that a table of groups counts."""

Groups = NDArray[np.intp]
Statistic = Callable[[NDArray[np.float64], Groups, int], NDArray[np.float64]]
"""From values [N] and the group of each [N] to a number for each of so many groups [G]."""


def _of_pandas(name: str) -> Statistic:
    def found(values: NDArray[np.float64], groups: Groups, count: int) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            grouped = getattr(pd.Series(values).groupby(groups), name)()
        return grouped.reindex(range(count)).to_numpy(dtype=np.float64)  # type: ignore[no-any-return]

    return found


def _quantile(share: float) -> Statistic:
    return lambda values, groups, count: quantiles(values, groups, count, share)


_PARTS: dict[str, Statistic] = {
    "median": _quantile(0.5),
    "q25": _quantile(0.25),
    "q75": _quantile(0.75),
    **{name: _of_pandas(name) for name in ("mean", "std", "min", "max")},
}
STATISTICS: dict[str, tuple[str, ...]] = {
    "median[iqr]": ("median", "q25", "q75"),
    "median[range]": ("median", "min", "max"),
    "mean±std": ("mean", "std"),
    **{name: (name,) for name in ("median", "mean", "std", "min", "max")},
}
"""Statistics by name, and the columns that each makes of one: ``error_median``, ``error_q25``, ``error_q75``."""


@dataclass(frozen=True)
class Column:
    """A column as it is read: a value, a value and its spread, or a value and two ends, which are ``parts`` of a frame.

    Unless it was ``asked`` for by name, it is left out of what people read where it is the same in all rows.
    """

    name: str
    parts: tuple[str, ...]
    asked: bool = False


@dataclass(frozen=True)
class Table:
    """A frame, its columns as they are read, and a line that says what the numbers are."""

    frame: pd.DataFrame
    columns: tuple[Column, ...]
    caption: str = ""

    def split(self) -> tuple[list[Column], dict[str, Any]]:
        """Return the columns that tell rows apart or were asked for, and the values of those that are the same in all rows."""
        shown, same = [], {}
        for column in self.columns:
            value = None if column.asked or len(self.frame) < 2 or len(column.parts) > 1 else _only(self.frame[column.name])
            if value is None:
                shown.append(column)
            else:
                same[column.name] = value
        return shown, same


def _only(column: pd.Series[Any]) -> Any:
    """Return the one value that a column has in all rows; ``None`` if it has several, or none."""
    values = column.astype(object).where(column.notna(), None)
    return values.iloc[0] if len({str(value) for value in values}) == 1 else None


def read_statistic(text: str) -> str:
    """Return the name of a statistic, whose signs are what one can type: ``mean+-std``. Raises `UsageError` for an unknown one."""
    words = re.findall(r"[a-z]+", text)
    for name in STATISTICS:
        if re.findall(r"[a-z]+", name) == words:
            return name
    raise UsageError(f"there is no statistic {text!r}{nearest(text, STATISTICS)}")


def split_list(text: str) -> list[str]:
    """Return the items of a list, between commas that are in no brackets and no quotes."""
    items, depth = [""], 0
    for piece in re.findall(r"'[^']*'|\"[^\"]*\"|.", text, re.DOTALL):
        depth += (piece in "([") - (piece in ")]")
        if piece == "," and not depth:
            items.append("")
        else:
            items[-1] += piece
    return [item.strip() for item in items if item.strip()]


def rate_of(text: str) -> str | None:
    """Return the condition of ``rate(CONDITION)``, the share of trials that meet it; ``None`` for any other expression.

    Raises `UsageError` if what is in the brackets is no condition.
    """
    condition = rate_in(text)
    return None if condition is None else read_condition(condition, "rate")


def listing(
    results: Results, *, where: str | None = None, sort: Sequence[str] = (), columns: Sequence[str] = (), sweeps: bool = False
) -> Table:
    """Return a row for each trial that meets a condition, in grid order or by the keys ``sort``; ``-KEY`` begins with the largest.

    ``columns`` are names, patterns such as ``sv_*``, and expressions; by default all but ``sweep``, or with ``sweeps`` all. Raises
    `UsageError` for what the runs do not have.
    """
    rows = _meeting(results, where)
    frame = results.runs if sweeps else results.runs.drop(columns="sweep")
    if columns:
        names = list(_expanded(columns, results.runs.columns))
        if any(rate_of(name) for name in names):
            raise UsageError("a rate is the share of trials in a group: group them by keys of the spec")
        frame = pd.DataFrame({name: _column(results, name) for name in names})
    if where is not None or sort:
        rows = rows[_order({key: _sortable(results, key)[rows] for key in _bare(sort)}, sort, len(rows))]
        frame = frame.iloc[rows].reset_index(drop=True)
    # Nobody reads ids of runs, which programs may need.
    read = [str(name) for name in frame.columns if columns or name != "run_id"]
    return Table(frame, tuple(Column(name, (name,), asked=bool(columns) or name == "trial_id") for name in read))


def grouped(
    results: Results,
    by: Sequence[str],
    *,
    where: str | None = None,
    sort: Sequence[str] = (),
    columns: Sequence[str] = (),
    statistic: str = "median[iqr]",
) -> Table:
    """Return a row for each group of trials that agree in ``by``, with a statistic of ``columns`` over the trials of each.

    ``by`` are keys of the spec or expressions, or `AUTO`. Trials that have not ended, or were deleted, are left out; a measure of one that
    diverged is infinite, so that a mean with it is, too, and one that failed has none. Columns are the steps and all final measures unless
    given; ``rate(CONDITION)`` is the share of trials that meet a condition, as `Results.met`. Raises `UsageError` for what the runs do not
    have.
    """
    rows = np.intersect1d(_meeting(results, where), np.flatnonzero(results.ended))
    keys = list(_expanded(by, results.runs.columns, lambda: results.varying(rows)))
    labels = pd.DataFrame({key: _column(results, key) for key in keys}).iloc[rows].reset_index(drop=True)
    # Expressions and lists are objects; what is missing is a group of its own.
    groups = np.zeros(len(rows), dtype=np.intp)
    if keys:
        groups[:] = labels.groupby(keys, dropna=False, sort=False).ngroup()
    count = int(groups.max()) + 1 if len(groups) else 0
    firsts = labels[~pd.Series(groups).duplicated()].reset_index(drop=True)
    made: dict[str, Any] = {key: firsts[key] for key in keys}
    made["trials"] = np.bincount(groups, minlength=count)
    for outcome in TROUBLE:
        made[outcome] = np.bincount(groups, (results.runs["outcome"] == outcome).to_numpy()[rows], count).astype(np.int64)
    counts = [Column(name, (name,)) for name in ("trials", *TROUBLE)]
    read = [*(Column(key, (key,), asked=True) for key in keys), *counts]
    for name in _expanded(columns, results.runs.columns) if columns else ("steps", *results.measures):
        parts = _statistics(results, name, statistic, rows, groups, count)
        made |= parts
        read.append(Column(name, tuple(parts), asked=bool(columns)))
    frame = pd.DataFrame(made)
    known = {column.name: column.parts[0] for column in read} | {part: part for part in made}
    for key in _bare(sort):
        if key not in known:
            raise UsageError(f"sort: the table has no {key}{nearest(key, list(known))}")
    order = _order({key: frame[known[key]] for key in _bare(sort)}, sort, count)
    return Table(frame.iloc[order].reset_index(drop=True), tuple(read), _caption(statistic, read))


def _caption(statistic: str, columns: Iterable[Column]) -> str:
    words = {"median[iqr]": "medians with quartiles", "median[range]": "medians with the range", "mean±std": "means ± standard deviations"}
    if all(column.name in ("trials", *TROUBLE) or column.parts == (column.name,) for column in columns):
        return ""
    return f"{words.get(statistic, statistic)} over trials"


def _statistics(
    results: Results, name: str, statistic: str, rows: NDArray[np.intp], groups: Groups, count: int
) -> dict[str, NDArray[np.float64]]:
    """Return the columns that a statistic makes of one, or the share of trials that meet a condition."""
    if condition := rate_of(name):
        return {name: _PARTS["mean"](results.met(results.read_condition(condition, "rate"))[rows], groups, count)}
    if Expression(read_formula(name, "columns")).is_condition:
        raise UsageError(f"columns: {name} is a condition: rate({name}) is the share of trials that meet it")
    if results.values(name).dtype.kind in "OUS":
        raise UsageError(f"columns: {name} is text, of which there is no {statistic}: group by it, or count trials by rate({name} == '…')")
    values = results.finals(name)[rows]
    return {f"{name}_{part}": _PARTS[part](values, groups, count) for part in STATISTICS[statistic]}


def _meeting(results: Results, where: str | None) -> NDArray[np.intp]:
    """Return the rows of the trials that meet a condition."""
    return np.arange(len(results)) if where is None else np.flatnonzero(results.condition(results.read_condition(where)))


def _expanded(names: Iterable[str], known: Iterable[Any], auto: Callable[[], Iterable[str]] | None = None) -> Iterator[str]:
    """Yield names, each once, with all columns for a pattern. Raises `UsageError` for a pattern that none has."""
    found: dict[str, None] = {}
    for name in names:
        if auto is not None and name == AUTO:
            found |= dict.fromkeys(auto())
        elif re.fullmatch(r"[\w.]*\*", name):
            matching = [str(column) for column in known if str(column).startswith(name[:-1])]
            if not matching:
                raise UsageError(f"the runs have no {name}: `orchestrate runs` shows what there is")
            found |= dict.fromkeys(matching)
        else:
            found[name] = None
    yield from found


def _column(results: Results, name: str) -> pd.Series[Any]:
    """Return a column as it is in the table of trials, or an expression."""
    if name in results.runs.columns:
        return results.runs[name]
    return pd.Series(results.values(read_formula(name, "columns")))


def _bare(sort: Sequence[str]) -> list[str]:
    return [key.removeprefix("-") for key in sort]


def _sortable(results: Results, key: str) -> NDArray[Any]:
    """Return the values to sort trials by: what a diverged one measured is infinite."""
    return results.values(key if key in IDENTITY else read_formula(key, "sort"))


def _order(values: Mapping[str, Any], sort: Sequence[str], count: int) -> NDArray[np.intp]:
    """Return the order of ``count`` rows by ``values`` [N] of each key; what is missing comes last, and what is equal stays as it is."""
    order = np.arange(count)
    for key in reversed(sort):
        column = pd.Series(np.asarray(values[key.removeprefix("-")]))
        if column.dtype == object:
            column = column.map(str, na_action="ignore")
        ranks = column.rank(method="dense", ascending=not key.startswith("-"), na_option="bottom").to_numpy()
        order = order[np.argsort(ranks[order], kind="stable")]
    return order
