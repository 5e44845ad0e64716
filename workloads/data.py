"""Data files: what a user's ``.npz`` and CSV files may hold, read from bytes and checked. Nothing is ever unpickled."""

from __future__ import annotations

import array as packed
import csv
import difflib
import io
import math
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.spec import MAX_ORDER

LARGEST = 1 << 32
"""Bytes that the arrays of one file may take in float64: a small file must not be able to fill the memory."""
_REAL = "iufb"
"""Kinds of numpy's types that hold real numbers."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class DataError(ValueError):
    """A data file is wrong; the message is one line that says what to mend."""


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


def read_problem(name: str, content: bytes, shape: Sequence[int] | None, sensing: bool) -> ProblemFile:
    """Read a problem's ``.npz`` or ``.csv`` file. ``shape`` is what the grid says, if it says.

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
    arrays = _read_npz(name, content, known)
    return _sensing(name, arrays, shape) if sensing else _completion(name, arrays, shape)


def read_factors(name: str, content: bytes) -> dict[str, NDArray[np.float64]]:
    """The factors ``W1`` ... ``WL`` or ``A1`` ... ``AN`` of an ``.npz`` file, each a finite matrix. Raises `DataError`."""
    if not name.lower().endswith(".npz"):
        raise DataError(f"{name}: initial factors come in an .npz file")
    arrays = _read_npz(name, content, None)
    letters = {key[:1] for key in arrays}
    expected = {f"{letter}{n + 1}" for letter in letters for n in range(len(arrays))}
    if not arrays or len(letters) != 1 or not letters <= {"W", "A"} or set(arrays) != expected:
        raise DataError(f"{name}: must hold W1, W2, ... or A1, A2, ..., but holds {', '.join(sorted(arrays)) or 'nothing'}")
    for key, array in arrays.items():
        if array.ndim != 2:
            raise DataError(f"{name}: {key} must be a matrix, not of shape {list(array.shape)}")
    return {key: _finite(name, key, array) for key, array in arrays.items()}


def check_factors(name: str, factors: dict[str, NDArray[np.float64]], letter: str, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise `DataError` unless ``factors`` are ``letter``1, ``letter``2, ... with the given shapes."""
    if set(factors) != {f"{letter}{n + 1}" for n in range(len(shapes))}:
        raise DataError(
            f"{name}: this factorization needs {letter}1 to {letter}{len(shapes)}, but the file holds {', '.join(sorted(factors))}"
        )
    for n, shape in enumerate(shapes):
        found = factors[f"{letter}{n + 1}"].shape
        if found != tuple(shape):
            raise DataError(f"{name}: {letter}{n + 1} must have shape {list(shape)}, not {list(found)}")


def _read_npz(name: str, content: bytes, known: tuple[str, ...] | None) -> dict[str, NDArray[np.generic]]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            unknown = [key for key in members if known is not None and key not in known]
            if unknown:
                near = difflib.get_close_matches(unknown[0], known or (), 1)
                meant = f"; did you mean {near[0]}?" if near else f": known are {', '.join(known or ())}"
                raise DataError(f"{name}: unknown array {unknown[0][:40]!r}{meant}")
            size = sum(_declared(name, key, archive, member) for key, member in members.items())
            if size > LARGEST:
                raise DataError(f"{name}: unpacks to {size / 2**30:.1f} GiB, more than the {LARGEST >> 30} GiB allowed")
            return {key: _array(archive, member) for key, member in members.items()}
    except DataError:
        raise
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a damaged file
        raise DataError(f"{name}: is not a readable .npz file") from error


def _declared(name: str, key: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Bytes that an array will take in float64 by its header, which is held to the size of the member: numpy would allocate first."""
    with archive.open(member) as stream:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
        held = member.file_size - stream.tell()
    if dtype.hasobject:
        raise DataError(f"{name}: holds Python objects, which are never loaded")
    if dtype.kind not in _REAL:
        raise DataError(f"{name}: {key} must hold real numbers, not {dtype}")
    count = math.prod(shape)
    if count * dtype.itemsize != held:
        raise DataError(f"{name}: {key} holds {held:,} bytes, but its header promises {dtype} of shape {list(shape)}")
    return 8 * count


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[np.generic]:
    with archive.open(member) as stream:
        numbers: NDArray[np.generic] = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # at the end of a member its checksum is looked at
    return numbers


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


def _sensing(name: str, arrays: dict[str, NDArray[np.generic]], shape: tuple[int, ...] | None) -> ProblemFile:
    truth = _truth(name, arrays, shape)
    shape = shape or (None if truth is None else truth.shape)
    if "measurements" not in arrays:
        if "values" in arrays:
            raise DataError(f"{name}: values need measurements, which say what was measured")
        if truth is None or shape is None:
            raise DataError(f"{name}: must hold target, or measurements and values")
        return ProblemFile(shape, truth)
    found = arrays["measurements"].shape
    if not (2 <= len(found) - 1 <= MAX_ORDER and math.prod(found)) or found[1:] != (shape or found[1:]):
        wanted = ", ".join(map(str, shape)) if shape else "rows, columns, ..."
        raise DataError(f"{name}: measurements must have shape [N, {wanted}], not {list(found)}")
    shape = found[1:]
    measurements = _finite(name, "measurements", arrays["measurements"])
    if "values" in arrays:
        values = _values(name, arrays["values"], len(measurements))
    elif truth is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            values = _finite(name, "measurements of target", measurements.reshape(len(measurements), -1) @ truth.reshape(-1))
    else:
        raise DataError(f"{name}: measurements need values, or target to compute them from")
    return ProblemFile(shape, truth, None, values, measurements)


def _truth(name: str, arrays: dict[str, NDArray[np.generic]], shape: tuple[int, ...] | None) -> NDArray[np.float64] | None:
    if "target" not in arrays:
        return None
    found = arrays["target"].shape
    if shape is not None and found != shape:
        raise DataError(f"{name}: target has shape {list(found)}, but problem.shape is {list(shape)}")
    if not (2 <= len(found) <= MAX_ORDER and math.prod(found)):
        raise DataError(f"{name}: target must be a matrix or tensor with entries, of order {MAX_ORDER} at most, not of shape {list(found)}")
    return _finite(name, "target", arrays["target"])


def _finite(name: str, key: str, array: NDArray[np.generic]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # of long doubles, to what is found next
        numbers = array.astype(np.float64)
    if not np.isfinite(numbers).all():
        where = [int(i) for i in np.argwhere(~np.isfinite(numbers))[0]]
        raise DataError(f"{name}: {key}{where} is not a finite number")
    return numbers


def _values(name: str, array: NDArray[np.generic], count: int) -> NDArray[np.float64]:
    values = _finite(name, "values", array)
    if values.shape != (count,):
        raise DataError(f"{name}: values must have shape [{count}], one per observation, not {list(values.shape)}")
    return values


def _indices(name: str, array: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.int64]:
    numbers = _finite(name, "indices", array)
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
    # Lists of lists would take thirty times the bytes of the file.
    rows, lines = packed.array("d"), packed.array("q")
    try:
        for line, row in enumerate(csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")), 1):
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if not rows and not any(_number(cell) is not None for cell in cells):
                continue  # a header
            rows.extend(_csv_row(f"{name}:{line}", cells, shape))
            lines.append(line)
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: is not UTF-8 text") from error
    except csv.Error as error:
        raise DataError(f"{name}: is not readable CSV: {error}") from error
    if not rows:
        raise DataError(f"{name}: holds no rows of {','.join('ijklmnop'[: len(shape)])},value")
    table = np.frombuffer(rows).reshape(len(lines), -1)
    indices = _inside(table[:, :-1], shape, lambda row: f"{name}:{lines[row]}")
    return ProblemFile(shape, None, indices, table[:, -1])


def _csv_row(place: str, cells: list[str], shape: tuple[int, ...]) -> list[float]:
    if len(cells) != len(shape) + 1:
        raise DataError(f"{place}: needs {len(shape)} indices and a value, not {len(cells)} columns")
    numbers = [_number(cell) for cell in cells]
    for cell, number in zip(cells, numbers, strict=True):
        if number is None or not math.isfinite(number):
            raise DataError(f"{place}: {cell[:40]!r} is not a finite number")
    return [n for n in numbers if n is not None]


def _number(cell: str) -> float | None:
    """The number a cell holds; not all that Python's ``float`` takes, which reads ``1_0`` as ten."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", cell, re.IGNORECASE):
        return None
    return float(cell)
