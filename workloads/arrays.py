"""Arrays from a user's ``.npz`` file, read from bytes and checked. Nothing is ever unpickled."""

from __future__ import annotations

import difflib
import io
import math
import zipfile

import numpy as np
from numpy.typing import NDArray

LARGEST = 1 << 32
"""Bytes that the arrays of one file may take in float64: a small file must not be able to fill the memory."""
RATIO, FREELY = 100, 128 << 20
"""A file may unpack to so many times its size, or to so many bytes: a plan should not take longer because somebody packed zeros."""
MAX_ARRAYS = 1000
"""As many as a factorization may have layers. Each has a header that is looked at."""
MAX_HEADER = 1 << 16
"""Bytes of an array's header. numpy refuses one a sixth as long, but only when it has read it."""
_REAL = "iufb"
"""Kinds of numpy's types that hold real numbers."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class DataError(ValueError):
    """A data file is wrong; the message is one line that says what to mend."""


def read_npz(name: str, content: bytes, known: tuple[str, ...] | None = None) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of the ``.npz`` file ``name``, by theirs; only those that are ``known``, if that is said.

    Raises `DataError` for an unknown array, for one that holds no real numbers, for a file that is damaged or unpacks to too much.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            if len(members) > MAX_ARRAYS:
                raise DataError(f"{name}: holds {len(members):,} arrays, more than the {MAX_ARRAYS:,} allowed")
            unknown = [key for key in members if known is not None and key not in known]
            if unknown:
                near = difflib.get_close_matches(unknown[0], known or (), 1)
                meant = f"; did you mean {near[0]}?" if near else f": known are {', '.join(known or ())}"
                raise DataError(f"{name}: unknown array {unknown[0][:40]!r}{meant}")
            size = sum(_declared(name, key, archive, member) for key, member in members.items())
            if size > LARGEST:
                raise DataError(f"{name}: unpacks to {size / 2**30:.1f} GiB, more than the {LARGEST >> 30} GiB allowed")
            unpacked = sum(member.file_size for member in members.values())
            if unpacked > max(FREELY, RATIO * len(content)):
                raise DataError(
                    f"{name}: unpacks to {unpacked >> 20:,} MiB, {unpacked // len(content):,} times its size: if it is meant to hold that, "
                    "save it with numpy.savez, which packs nothing"
                )
            return {key: _array(archive, member) for key, member in members.items()}
    except DataError:
        raise
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a damaged file
        raise DataError(f"{name}: is not a readable .npz file") from error


def _declared(name: str, key: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Bytes that an array will take in float64 by its header, which is held to the size of the member: numpy would allocate first."""
    with archive.open(member) as stream:
        # From a part of it, which is then all that is read of a header that says it is longer.
        head = io.BytesIO(stream.read(MAX_HEADER))
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(head)](head)
        held = member.file_size - head.tell()
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


def finite(name: str, key: str, array: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return ``array`` in float64. Raises `DataError`, which says where, if a number of it is not finite."""
    with np.errstate(over="ignore"):  # of long doubles, to what is found next
        numbers = array.astype(np.float64)
    if not np.isfinite(numbers).all():
        where = [int(i) for i in np.argwhere(~np.isfinite(numbers))[0]]
        raise DataError(f"{name}: {key}{where} is not a finite number")
    return numbers
