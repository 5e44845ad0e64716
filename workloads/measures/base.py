"""What all measures have in common.

A measure is a function from a `Snapshot` (R lanes at some step of theirs) to a tensor [R] or [R, k], and a row of `MEASURES` that
says where it is defined and what its columns are called. Names may carry arguments after an underscore: ``schatten_0.5``,
``entry_0_0``, ``singular_values_25``.

torch is reached only through the tensors passed in, so that planning can read the table without importing it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from workloads.measures.work import Rows, of_products
from workloads.stop import columns_in
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor


MAX_NAME = 100
"""Characters: an index of thousands of digits is none."""
MOST_COLUMNS = 10
"""A measure of many numbers records the largest ten, unless its name says how many."""

MEASURES: list[Measure] = []


def always(spec: TrialSpec, *_: str) -> str | None:  # noqa: ARG001
    """Return ``None``: defined for all trials."""
    return None


@dataclass(frozen=True)
class Measure:
    """One row of the table.

    ``pattern`` is a regular expression for the name, with a group per argument, and ``shown`` a name that it matches. ``needs`` returns why
    the measure is not defined for a trial, or ``None`` where it is. ``columns`` gives the names of the k columns. ``compute`` maps a
    snapshot and the arguments to [R] or [R, k]. ``final`` says that it is computed at the end of a trial only, because it costs more
    than training does; ``product``, that it needs an end-to-end matrix or tensor, so that it is not defined for functions of inputs;
    ``state``, that it is of how training stands, of which factors alone say nothing, so that it cannot be computed afterwards.
    """

    pattern: str
    shown: str
    compute: Callable[..., Tensor]
    summary: str
    needs: Callable[..., str | None] = always
    columns: Callable[..., Sequence[str]] | None = None
    final: bool = False
    product: bool = True
    state: bool = False
    work: Callable[..., int] | None = None
    """From the rows that are measured at once (`workloads.measures.work.Rows`) and the arguments to the bytes that it holds meanwhile,
    where those are many, besides the products of measures that need one (`workloads.measures.work.of_products`)."""
    by_column: Callable[[str], str | None] | None = None
    """From a column to the measure's name, where what a name says after an underscore is in the names of its columns."""
    code: str = ""
    """The SHA-256 of the code that it is from, where that is a user's own."""

    def match(self, name: str) -> tuple[str, ...] | None:
        """Return the arguments in ``name``, or ``None`` where it is another measure's."""
        found = re.fullmatch(self.pattern, name, re.ASCII) if len(name) <= MAX_NAME else None
        return found.groups() if found else None


class Counted(Measure):
    """One whose argument, if there is one, is how many columns it has at most."""


class AgainstArray(Measure):
    """One whose argument is the name of an array of a data file, which `record.references` has to give."""


def withdraw(row: Measure) -> None:
    """Take a measure off the table. Raises `ValueError` if it is not there."""
    MEASURES.remove(row)
    find.cache_clear()


def enter(row: Measure) -> None:
    """Put a measure on the table. Raises `ValueError` if its name is taken."""
    taken = next((m for m in MEASURES if m.match(row.shown) is not None or row.match(m.shown) is not None), None)
    if taken is not None:
        raise ValueError(f"measure {row.shown} is {taken.compute.__module__}.{taken.compute.__qualname__} already")
    MEASURES.append(row)
    find.cache_clear()


F = TypeVar("F", bound=Callable[..., Any])


def measure(
    summary: str, pattern: str | None = None, *, shown: str | None = None, kind: type[Measure] = Measure, **fields: Any
) -> Callable[[F], F]:
    """Register the function below as a measure: by its own name, or by all that match ``pattern``, such as the one ``shown``.

    ``summary`` is what the guide says of it; ``fields`` are `Measure`'s, or those of another ``kind``. Raises `ValueError` if a name is
    taken.
    """

    def register(compute: F) -> F:
        name = shown or compute.__name__
        enter(kind(pattern or re.escape(name), name, compute, summary, **fields))
        return compute

    return register


@lru_cache(maxsize=10_000)
def find(name: str) -> tuple[Measure, tuple[str, ...]] | None:
    """Return the measure called ``name`` and the arguments in its name, or ``None`` where there is none."""
    for row in MEASURES:
        if (arguments := row.match(name)) is not None:
            return row, arguments
    return None


def _known(name: str) -> tuple[Measure, tuple[str, ...]]:
    found = find(name)
    if found is None:
        raise KeyError(name)
    return found


def code_of(name: str) -> str:
    """Return the SHA-256 of the user's code that a measure is from; empty for what is built in, or unknown."""
    found = find(name)
    return "" if found is None else found[0].code


def is_final(name: str) -> bool:
    """Return whether measure ``name`` is computed at the end of a trial only. Raises `KeyError` for an unknown name."""
    return _known(name)[0].final


def reference_of(name: str) -> str | None:
    """Return what `record.references` has to name for a measure; ``None`` for one that is against no array, or unknown."""
    found = find(name)
    return found[1][0] if found is not None and isinstance(found[0], AgainstArray) else None


def held_meanwhile(names: Sequence[str], rows: Rows) -> int:
    """Return the bytes that measures hold while they are computed, one after another, of ``rows`` at once."""
    found = [_known(name) for name in names]
    most = max((row.work(rows, *arguments) for row, arguments in found if row.work is not None), default=0)
    return most + (of_products(rows) if any(row.product for row, _ in found) else 0)


def is_state(name: str) -> bool:
    """Return whether measure ``name`` is known in training only. Raises `KeyError` for an unknown name."""
    return _known(name)[0].state


def undefined(name: str, spec: TrialSpec) -> str | None:
    """Return why ``name`` is not defined for trials of this spec, or ``None`` where it is. Raises `KeyError` for an unknown name."""
    row, arguments = _known(name)
    if row.product and spec.factorization.maps:
        return f"needs an end-to-end matrix or tensor, which factorization.kind {spec.factorization.kind} has not"
    return row.needs(spec, *arguments)


def column_names(name: str, spec: TrialSpec) -> tuple[str, ...]:
    """Return the columns that measure ``name`` fills for trials of this spec. Raises `KeyError` for an unknown name."""
    row, arguments = _known(name)
    return tuple(row.columns(spec, *arguments)) if row.columns else (name,)


def beyond(name: str, spec: TrialSpec) -> int | None:
    """Return how many columns ``name`` has where it asks for more of them, or ``None`` where it has them all. Raises `KeyError`."""
    row, arguments = _known(name)
    asked = arguments[0] if isinstance(row, Counted) else None
    return there if asked is not None and (there := len(column_names(name, spec))) < int(asked) else None


def of_column(column: str, spec: TrialSpec) -> str | None:
    """Return the measure that fills ``column`` for trials of this spec, or ``None`` where none does."""
    found = find(column)
    if found is not None and found[0].columns is None:
        names = [column]
    else:
        # A user's own measures are asked only for columns that have their names: to ask is to run them.
        own = re.sub(r"_\d+$", "", column)
        rows = [row for row in MEASURES if row.columns is not None and (not row.code or row.shown in (column, own))]
        names = [*(row.shown for row in rows), *(name for row in rows if row.by_column and (name := row.by_column(column)))]
    return next((name for name in names if undefined(name, spec) is None and column in column_names(name, spec)), None)


def watched(spec: TrialSpec) -> tuple[str, ...]:
    """Return the measures that a trial's conditions to stop look at."""
    found = (of_column(column, spec) for condition in spec.stop.conditions.values() for column in columns_in(condition))
    return tuple(dict.fromkeys(name for name in found if name is not None))


# What measures need of a trial.


def vector(spec: TrialSpec, *_: str) -> str | None:
    """Return why a measure of vectors is not defined, or ``None`` where it is."""
    return None if len(spec.shape) == 1 else "is defined for vectors only"


def matrix(spec: TrialSpec, *_: str) -> str | None:
    """Return why a measure of matrices is not defined, or ``None`` where it is."""
    return None if len(spec.shape) == 2 else "is defined for matrices only"


def tensor(spec: TrialSpec, *_: str) -> str | None:
    """Return why a measure of tensors is not defined, or ``None`` where it is."""
    return None if len(spec.shape) > 2 else "is defined for tensors of order three or more"


def completion(spec: TrialSpec, *_: str) -> str | None:
    """Return why a measure of observed entries is not defined, or ``None`` where it is."""
    return "is defined for completion problems only" if spec.problem.sensing else None


def matrix_rank(spec: TrialSpec, rank: str) -> str | None:
    """Return why a measure of a rank is not defined, or ``None`` where it is."""
    return matrix(spec) or (None if int(rank) <= min(spec.shape) else f"needs a rank of at most {min(spec.shape)}")


def indices(text: str) -> tuple[int, ...]:
    """Return the index that a name such as ``entry_0_1`` ends in."""
    return tuple(int(part) for part in text.strip("_").split("_"))


def index(spec: TrialSpec, text: str) -> str | None:
    """Return why a measure of one entry is not defined, or ``None`` where it is."""
    found = indices(text)
    if len(found) != len(spec.shape) or any(i >= n for i, n in zip(found, spec.shape, strict=True)):
        return f"needs an index inside shape {list(spec.shape)} (counting from 0)"
    return None
