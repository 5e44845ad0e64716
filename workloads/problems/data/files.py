"""Data files of problems: what a user's ``.npz`` and CSV files may hold, read from bytes and checked."""

from __future__ import annotations

import array as packed
import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.amounts import amount
from workloads.arrays import DataError, finite, read_npz
from workloads.section import MAX_ORDER


@dataclass(frozen=True, eq=False)
class ProblemFile:
    """What a problem's data file says.

    ``truth`` [*shape] is the ground truth; ``indices`` [N, order] and ``values`` [N] are the observed entries; ``measurements``
    [N, *shape] with ``values`` a sensing operator and what it saw. What the file does not hold is ``None``.
    """

    shape: tuple[int, ...]
    truth: NDArray[np.float64] | None = None
    indices: NDArray[np.int64] | None = None
    values: NDArray[np.float64] | None = None
    measurements: NDArray[np.float64] | None = None

    @property
    def count(self) -> int | None:
        """How many observations the file fixes; ``None`` where the grid says how many of the truth's entries are seen."""
        if self.indices is not None:
            return len(self.indices)
        return None if self.measurements is None else len(self.measurements)


def read_problem(name: str, content: bytes, shape: Sequence[int] | None, sensing: bool, least: int = 2) -> ProblemFile:
    """Read a problem's ``.npz`` or ``.csv`` file. ``shape`` is what the grid says, if it says, and has ``least`` dimensions or more.

    Raises `DataError` for anything that does not fit: unknown arrays, wrong shapes, values that are not finite, indices out of range or
    given twice.
    """
    shape = None if shape is None else tuple(shape)
    if name.lower().endswith(".csv"):
        if sensing:
            raise DataError(f"{name}: a CSV file lists observed entries, which is completion; sensing needs an .npz file")
        return _read_csv(name, content, shape)
    if not name.lower().endswith(".npz"):
        raise DataError(f"{name}: data files are .npz or .csv")
    known = ("target", "measurements", "values") if sensing else ("target", "indices", "values")
    arrays = read_npz(name, content, known)
    return _sensing(name, arrays, shape, least) if sensing else _completion(name, arrays, shape)


def read_design(name: str, content: bytes, shape: Sequence[int] | None) -> ProblemFile:
    """Read the ``.npz`` or ``.csv`` file of a regression: ``design`` [N, D] and ``values`` [N], or rows of D features and a value.

    An ``.npz`` may hold ``target`` [D] besides, or alone. Raises `DataError` for anything that does not fit.
    """
    if name.lower().endswith(".csv"):
        table = _table(name, content, None if shape is None else shape[0] + 1, "features and a value")[0]
        if table.shape[1] < 2:
            raise DataError(f"{name}: needs rows of features and a value")
        return ProblemFile((table.shape[1] - 1,), None, None, table[:, -1], table[:, :-1])
    if not name.lower().endswith(".npz"):
        raise DataError(f"{name}: data files are .npz or .csv")
    arrays = read_npz(name, content, ("target", "design", "values"))
    if "design" in arrays:
        arrays["measurements"] = arrays.pop("design")
    return _sensing(name, arrays, None if shape is None else tuple(shape), 1, "design")


def _completion(name: str, arrays: dict[str, NDArray[np.generic]], shape: tuple[int, ...] | None) -> ProblemFile:
    truth = _truth(name, arrays, shape)
    shape = shape or (None if truth is None else truth.shape)
    if shape is None:
        raise DataError(f"{name}: without target the shape is not known: give problem.shape")
    if "indices" not in arrays:
        if "values" in arrays:
            raise DataError(f"{name}: values need indices, which say where they are observed")
        if truth is None:
            raise DataError(f"{name}: must hold target, or indices and values")
        return ProblemFile(shape, truth)
    indices = _indices(name, arrays["indices"], shape)
    if "values" in arrays:
        values = _values(name, arrays["values"], len(indices))
    elif truth is not None:
        values = truth[tuple(indices.T)]
    else:
        raise DataError(f"{name}: indices need values, or target to take them from")
    return ProblemFile(shape, truth, indices, values)


def _sensing(
    name: str, arrays: dict[str, NDArray[np.generic]], shape: tuple[int, ...] | None, least: int, called: str = "measurements"
) -> ProblemFile:
    truth = _truth(name, arrays, shape, least)
    shape = shape or (None if truth is None else truth.shape)
    if "measurements" not in arrays:
        if "values" in arrays:
            raise DataError(f"{name}: values need {called}, which say what was measured")
        if truth is None or shape is None:
            raise DataError(f"{name}: must hold target, or {called} and values")
        return ProblemFile(shape, truth)
    found = arrays["measurements"].shape
    if not (least <= len(found) - 1 <= MAX_ORDER and math.prod(found)) or found[1:] != (shape or found[1:]):
        wanted = ", ".join(map(str, shape)) if shape else "rows, columns, ..." if least > 1 else "entries"
        raise DataError(f"{name}: {called} must have shape [N, {wanted}], not {list(found)}")
    shape = found[1:]
    measurements = finite(name, called, arrays["measurements"])
    if "values" in arrays:
        values = _values(name, arrays["values"], len(measurements))
    elif truth is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            values = finite(name, f"{called} of target", measurements.reshape(len(measurements), -1) @ truth.reshape(-1))
    else:
        raise DataError(f"{name}: {called} need values, or target to compute them from")
    return ProblemFile(shape, truth, None, values, measurements)


def _truth(name: str, arrays: dict[str, NDArray[np.generic]], shape: tuple[int, ...] | None, least: int = 2) -> NDArray[np.float64] | None:
    if "target" not in arrays:
        return None
    found = arrays["target"].shape
    if shape is not None and found != shape:
        raise DataError(f"{name}: target has shape {list(found)}, but problem.shape is {list(shape)}")
    if not (least <= len(found) <= MAX_ORDER and math.prod(found)):
        what = "a matrix or tensor" if least > 1 else "a vector"
        raise DataError(f"{name}: target must be {what} with entries, of order {MAX_ORDER} at most, not of shape {list(found)}")
    return finite(name, "target", arrays["target"])


def _values(name: str, array: NDArray[np.generic], count: int) -> NDArray[np.float64]:
    values = finite(name, "values", array)
    if values.shape != (count,):
        raise DataError(f"{name}: values must have shape [{count}], one per observation, not {list(values.shape)}")
    return values


def _indices(name: str, array: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.int64]:
    numbers = finite(name, "indices", array)
    if numbers.ndim != 2 or numbers.shape[1] != len(shape) or not len(numbers):
        raise DataError(f"{name}: indices must have shape [N, {len(shape)}] with N of at least 1, not {list(numbers.shape)}")
    return _inside(numbers, shape, lambda row: f"{name}: indices[{row}]")


def _inside(numbers: NDArray[np.float64], shape: tuple[int, ...], place: Callable[[int], str]) -> NDArray[np.int64]:
    """Whole, inside ``shape``, and each only once; ``place`` names a row for the message."""
    wrong = (numbers != np.rint(numbers)) | (numbers < 0) | (numbers >= np.array(shape))
    if wrong.any():
        row = int(np.argmax(wrong.any(1)))
        raise DataError(f"{place(row)}: index {_plain(numbers[row])} lies outside shape {list(shape)} (whole numbers, counting from 0)")
    indices = numbers.astype(np.int64)
    flat = np.ravel_multi_index(tuple(indices.T), shape)
    _, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
    again = first[inverse] != np.arange(len(flat))
    if again.any():
        row = int(np.argmax(again))
        raise DataError(f"{place(row)}: entry {indices[row].tolist()} is observed twice")
    return indices


def _plain(row: NDArray[np.float64]) -> list[float | int]:
    return [int(x) if float(x).is_integer() else float(x) for x in row]


def _read_csv(name: str, content: bytes, shape: tuple[int, ...] | None) -> ProblemFile:
    if shape is None:
        raise DataError(f"{name}: a CSV file does not tell the shape: give problem.shape")
    table, lines = _table(name, content, len(shape) + 1, f"{len(shape)} indices and a value")
    indices = _inside(table[:, :-1], shape, lambda row: f"{name}:{lines[row]}")
    return ProblemFile(shape, None, indices, table[:, -1])


def _table(name: str, content: bytes, columns: int | None, what: str) -> tuple[NDArray[np.float64], Sequence[int]]:
    """Return the numbers [N, columns] of a CSV file, a header left out, and the lines they are on; as many columns as the first row has
    unless it is said. ``what`` says what a row is."""
    # Lists of lists would take thirty times the bytes of the file.
    rows, lines = packed.array("d"), packed.array("q")
    try:
        for line, row in enumerate(csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")), 1):
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if not rows and not any(_number(cell) is not None for cell in cells):
                continue  # a header
            columns = columns or len(cells)
            rows.extend(_csv_row(f"{name}:{line}", cells, columns, what))
            lines.append(line)
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: is not UTF-8 text") from error
    except csv.Error as error:
        raise DataError(f"{name}: is not readable CSV: {error}") from error
    if not rows:
        raise DataError(f"{name}: holds no rows of {what}")
    return np.frombuffer(rows).reshape(len(lines), -1), lines


def _csv_row(place: str, cells: list[str], columns: int, what: str) -> list[float]:
    if len(cells) != columns:
        raise DataError(f"{place}: needs {what}, not {amount(len(cells), 'column')}")
    numbers = [_number(cell) for cell in cells]
    for cell, number in zip(cells, numbers, strict=True):
        if number is None or not math.isfinite(number):
            raise DataError(f"{place}: {cell[:40]!r} is not a finite number")
    return [n for n in numbers if n is not None]


def _number(cell: str) -> float | None:
    """Return the number a cell holds; not all that Python's ``float`` takes, which reads ``1_0`` as ten."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", cell, re.IGNORECASE):
        return None
    return float(cell)
