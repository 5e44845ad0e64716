"""The trials of one or more sweeps with their traces, and expressions evaluated over them.

A trial diverged when its loss was not finite any more. What else it measured then is an accident of floating point, some of it huge, some
infinite, some not a number; here all of it counts as infinite, at the end and in the last row of its trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.errors import UsageError
from orchestrator.grid.mixed import mixed
from orchestrator.grid.questions import MEANT, SEEDS, read_condition
from orchestrator.grid.quoting import unquoted
from orchestrator.tracking import layout
from orchestrator.tracking.read.tables import load_history_of, load_runs_of, without_trace
from workloads.expressions import OVER_TRACE, Expression
from workloads.factorizations import FACTORIZATIONS
from workloads.training.trial_state import Outcome
from workloads.trial import KINDS

if TYPE_CHECKING:
    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store

IDENTITY = ("trial_id", "run_id", "outcome", "steps", "seconds", "sweep")
"""Columns of the table of trials that come before the spec's."""
_REDUCTIONS = {"first": "first", "lowest": "min", "highest": "max"}


class Results:
    """Trials ``runs`` (a row each, as `orchestrator.load_runs`, plus ``sweep``) and their traces, read when they are first needed.

    ``history`` has ``trial_id``, ``step`` and the measures; ``owners`` [K] is the row in ``runs`` that each row of it belongs to.
    """

    def __init__(self, runs: pd.DataFrame, history: Callable[[], pd.DataFrame]) -> None:
        self.runs = runs.reset_index(drop=True)
        self._history = history

    @classmethod
    def load(cls, store: Store, sweeps: Sequence[SweepSummary]) -> Results:
        """Return the trials of ``sweeps``, each once, reused ones included; their traces, too."""
        return cls(load_runs_of(store, sweeps), lambda: load_history_of(store, sweeps))

    def __len__(self) -> int:
        return len(self.runs)

    @cached_property
    def history(self) -> pd.DataFrame:
        """The traces, of trials that are in ``runs``."""
        frame = self._history()
        known: pd.DataFrame = frame[frame["trial_id"].isin(self.runs["trial_id"])].reset_index(drop=True)
        ends = known["trial_id"].isin(self.runs["trial_id"][self.diverged]) & ~known["trial_id"].duplicated(keep="last")
        if ends.any():
            measures = known.columns.drop(["trial_id", "step"])
            known[measures] = known[measures].astype(np.float64)
            # A measure that is not defined for a trial has no value at any step.
            defined = known[measures].notna().groupby(known["trial_id"]).transform("any")
            known[measures] = known[measures].mask(defined.where(ends, False), np.inf)
        return known

    @cached_property
    def owners(self) -> NDArray[np.intp]:
        """The row in ``runs`` that each row of `history` belongs to [K]."""
        owners: NDArray[np.intp] = pd.Index(self.runs["trial_id"]).get_indexer(pd.Index(self.history["trial_id"]))
        return owners

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """Which trials have diverged [R]."""
        return (self.runs["outcome"] == Outcome.DIVERGED.value).to_numpy()

    @property
    def divergences(self) -> NDArray[np.bool_]:
        """The recorded steps at which trials diverged, the last of each [K]."""
        return self.diverged[self.owners] & ~self.history["trial_id"].duplicated(keep="last").to_numpy()

    @property
    def deleted(self) -> NDArray[np.bool_]:
        """Which trials have ended but their runs were deleted [R]."""
        return (self.runs["outcome"] == layout.DELETED).to_numpy()

    @property
    def ended(self) -> NDArray[np.bool_]:
        """Which trials have ended and are there to be looked at [R]."""
        return self.runs["outcome"].notna().to_numpy() & ~self.deleted

    def chosen(self, where: str | None) -> NDArray[np.intp]:
        """Return the rows of the trials that have ended and meet a condition."""
        return np.flatnonzero(self.ended & self.condition(where)) if where else np.flatnonzero(self.ended)

    def gone(self, where: str | None, sides: Sequence[str], *, traced: bool) -> NDArray[np.intp]:
        """Return the rows of trials that were deleted, or, if ``traced``, whose traces were, and that may meet a condition.

        Also one of the conditions ``sides``, if there are any. Of what was deleted the spec alone is known.
        """
        gone = self.deleted
        if traced:
            gone = gone | without_trace(self.runs, self.history).to_numpy()
        if gone.any():
            columns, known = _Runs(self), {*self.keys, "trial_id", "sweep"}
            may = [np.broadcast_to(Expression(text).may_hold(columns, known), len(self)) for text in (where, *sides) if text]
            if where:
                gone = gone & may.pop(0)
            if may:
                gone = gone & np.logical_or.reduce(may)
        return np.flatnonzero(gone)

    def condition(self, text: str) -> NDArray[np.bool_]:
        """Which trials meet a condition [R]."""
        met: NDArray[np.bool_] = np.broadcast_to(Expression(text).evaluate(_Runs(self)), len(self)).astype(np.bool_)
        return met

    def read_condition(self, text: str, field: str = "where") -> str:
        """Return a condition that did not come with a grid but as ``field``.

        Raises `UsageError` if it is none, or compares numbers with text.
        """
        condition = read_condition(text, field)
        texts, numbers = self._types
        for slip in mixed(condition, texts, numbers):
            raise UsageError(f"{field}: {slip}")
        return condition

    @cached_property
    def _types(self) -> tuple[set[str], set[str]]:
        """The columns of the table of trials that have text alone, and numbers alone; neither if they have no value."""
        kinds = {str(name): pd.api.types.infer_dtype(self.runs[name], skipna=True) for name in self.runs.columns}
        numbers = {name for name, kind in kinds.items() if kind in ("integer", "floating", "mixed-integer-float")}
        return {name for name, kind in kinds.items() if kind == "string"}, numbers | {"step"}

    def values(self, text: str) -> NDArray[Any]:
        """Return an expression once a trial [R]: keys of the spec, and measures at the end."""
        return np.broadcast_to(Expression(text).evaluate(_Runs(self)), len(self))

    def numbers(self, text: str) -> NDArray[np.float64]:
        """Return a number once a trial [R], as `values`. Raises `UsageError` for what is text."""
        return _numbers(text, self.values(text))

    def finals(self, text: str) -> NDArray[np.float64]:
        """Return a number once a trial [R], as `values`: infinite where it is made of what a diverged trial measured and is undefined."""
        values = self.numbers(text)
        return np.where(np.isnan(values) & self.diverged & self.is_measured(text), np.inf, values)

    def met(self, text: str) -> NDArray[np.float64]:
        """Return 1 for trials that meet a condition, 0 for those that do not, and NaN where no measure that it is about has a value [R].

        What diverged trials measured meets none, unless the condition is about the ``outcome``, too: then it says itself what of them.
        """
        met = self.condition(text).astype(np.float64)
        names = Expression(text).names
        measured = [name for name in names if self.is_measured(name)]
        if not measured:
            return met
        if "outcome" not in names:
            met[self.diverged] = 0.0
        known = self.diverged | np.logical_or.reduce([~np.isnan(np.asarray(self.values(name), np.float64)) for name in measured])
        return np.where(known, met, np.nan)

    def is_measured(self, text: str) -> bool:
        """Return whether an expression is made of measures, rather than of the spec alone."""
        return any(name in self.measures or name.partition("(")[0] in OVER_TRACE for name in Expression(text).names)

    def traced(self, text: str) -> NDArray[Any]:
        """Return an expression at every recorded step [K]; keys of the spec are those of the step's trial."""
        return np.broadcast_to(Expression(text).evaluate(_Rows(self)), len(self.history))

    def traced_numbers(self, text: str) -> NDArray[np.float64]:
        """Return a number at every recorded step [K], as `traced`. Raises `UsageError` for what is text."""
        return _numbers(text, self.traced(text))

    def margins(self, text: str, traced: bool) -> NDArray[np.float64]:
        """By how much a condition holds (`Expression.margin`), once a trial [R] or at every recorded step [K]."""
        size = len(self.history) if traced else len(self)
        margins: NDArray[np.float64] = np.broadcast_to(Expression(text).margin(_Rows(self) if traced else _Runs(self)), size)
        return margins

    def rows(self, trials: NDArray[np.intp], when: str | None) -> NDArray[np.intp]:
        """Return the recorded steps of some trials, those at which a condition holds."""
        keep = np.zeros(len(self), dtype=np.bool_)
        keep[trials] = True
        history = self.history
        kept = keep[self.owners]
        if when:
            kept &= np.broadcast_to(Expression(when).evaluate(_Rows(self)), len(history)).astype(np.bool_)
        return np.flatnonzero(kept)

    @cached_property
    def keys(self) -> list[str]:
        """The spec's dotted keys."""
        return [column for column in self.runs.columns if column in ("seed", "dtype") or ("." in column and column not in self.measures)]

    @cached_property
    def measures(self) -> list[str]:
        """The measures in the table of trials."""
        return [column for column in self.runs.columns if pd.api.types.is_float_dtype(self.runs[column]) and _is_measure(column)]

    def varying(self, trials: NDArray[np.intp], without: Sequence[str] = ()) -> list[str]:
        """Return the keys of the spec that tell some trials apart, besides seeds and the keys ``without``."""
        left_out = {*SEEDS, *without}
        return distinguishing(self.runs.iloc[trials], [key for key in self.keys if key not in left_out], without)


def distinguishing(runs: pd.DataFrame, keys: Sequence[str], given: Sequence[str] = ()) -> list[str]:
    """Those of ``keys`` that differ between runs and do not follow from others that do, or from the keys ``given``."""
    kept: list[str] = []
    derived = _derived()
    # A step size is chosen for all else, and keys of a loss come with its kind.
    for key in sorted(keys, key=lambda key: (key == "optimizer.lr", key in derived, key != "spec.loss")):
        others = [*given, *kept]
        values = runs[key]
        apart = runs.groupby(others, dropna=False)[key].nunique(dropna=False).max() if others else values.nunique(dropna=False)
        if apart > 1:
            kept.append(key)
    return [key for key in keys if key in kept]


def _derived() -> set[str]:
    """Return the keys that mostly follow from others."""
    return {f"factorization.{key}" for kind in FACTORIZATIONS.values() for key in kind.derived}


def _is_measure(column: str) -> bool:
    # The spec's keys are dotted below one of its sections; of measures only schatten_0.5 and its like have a dot.
    section, dot, _ = column.partition(".")
    return column not in (*IDENTITY, "seed", "dtype") and section not in (*KINDS, "stop", "spec", *(["loss"] if dot else []))


class _Columns(Mapping[str, Any]):
    """Columns by name as arrays; a name that there is not is the user's to mend."""

    def __init__(self, results: Results) -> None:
        self.results = results

    def __getitem__(self, name: str) -> NDArray[Any]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[str]:
        return iter(self.results.runs.columns)

    def __len__(self) -> int:
        return len(self.results.runs.columns)


class _Runs(_Columns):
    def __getitem__(self, name: str) -> NDArray[Any]:
        runs = self.results.runs
        function, _, inner = name.partition("(")
        if inner and function in OVER_TRACE:
            history = self.results.history
            if inner[:-1] not in history.columns:
                raise _missing(inner[:-1], history)
            grouped = history[inner[:-1]].groupby(self.results.owners)
            return getattr(grouped, _REDUCTIONS[function])().reindex(range(len(runs))).to_numpy()  # type: ignore[no-any-return]
        if name not in runs.columns:
            raise _missing(name, runs)
        values = plain(runs[name])
        return np.where(self.results.diverged, np.inf, values) if name in self.results.measures else values


class _Rows(_Columns):
    def __getitem__(self, name: str) -> NDArray[Any]:
        history = self.results.history
        if name in history.columns:
            return plain(history[name])
        return _Runs(self.results)[name][self.results.owners]


def _missing(name: str, frame: pd.DataFrame) -> UsageError:
    import difflib

    names = [str(column) for column in frame.columns]
    # Of a key people often write the last part alone.
    tails = {column.rpartition(".")[2]: column for column in reversed(names)}
    close = (
        [MEANT[name]]
        if MEANT.get(name) in names
        else difflib.get_close_matches(name, names, 1, 0.65) or [tails[tail] for tail in difflib.get_close_matches(name, tails, 1, 0.65)]
    )
    hint = f"; did you mean {close[0]}?" if close else f"{unquoted(name)}; `orchestrate runs` and `history` show what there is"
    return UsageError(f"the runs have no {name}{hint}")


def _numbers(text: str, values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the values of an expression as numbers. Raises `UsageError` if they are text."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError) as error:
        example = next((value for value in values if isinstance(value, str)), "")
        raise UsageError(f"{text} is text, such as {example}, where numbers are needed") from error


def plain(column: pd.Series[Any]) -> NDArray[Any]:
    """Return a column as an array: numbers as float64 with NaN for what is missing, booleans where none is missing, else objects."""
    if pd.api.types.is_bool_dtype(column.dtype) and not column.isna().any():
        return column.to_numpy(dtype=np.bool_)
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    return column.to_numpy(dtype=object)
