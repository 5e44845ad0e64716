"""Data files that are damaged or hostile: one line that says what is wrong, and neither memory nor trust is given away."""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

from workloads.arrays import FREELY, LARGEST, DataError
from workloads.inits.from_file import read_factors
from workloads.problems.data.files import read_problem


def archive(**members):
    """A compressed archive of arrays, each in one piece or in several."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, content in members.items():
            with file.open(f"{name}.npy", "w") as into:
                for part in [content] if isinstance(content, bytes) else content:
                    into.write(part)
    return out.getvalue()


def member(shape, descr="<f8", body=b""):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def saved(**arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def message(content, shape=None, sensing=False, name="d.npz"):
    with warnings.catch_warnings(action="error"), pytest.raises(DataError) as caught:
        read_problem(name, content, shape, sensing)
    return str(caught.value)


@pytest.mark.parametrize("shape", [(1 << 20, 1 << 14), (4, 4), (-4, -4, 1), (1 << 62, 1 << 62)])
def test_a_header_that_promises_what_is_not_there_costs_nothing(shape):
    tracemalloc.start()
    assert "d.npz: target holds 64 bytes, but its header promises float64 of shape [" in message(
        archive(target=member(shape, body=bytes(64)))
    )
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_bomb_is_refused_by_what_it_would_take_in_float64():
    side = 26000
    assert side * side < LARGEST < 8 * side * side
    bomb = archive(W1=[member((side, side), "|u1"), *[bytes(side)] * side])
    assert len(bomb) < 8 << 20
    with pytest.raises(DataError, match=r"unpacks to 5\.0 GiB, more than the 4 GiB allowed"):
        read_factors("w.npz", bomb, {"W1": (side, side)})


def test_a_header_is_read_no_further_than_headers_are_long():
    promised = 64 << 20
    bomb = archive(target=b"\x93NUMPY\x02\x00" + struct.pack("<I", promised) + b" " * promised)
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    assert message(bomb) == "d.npz: is not a readable .npz file"
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_file_of_very_many_arrays_is_refused():
    with pytest.raises(DataError, match="holds 1,001 arrays, more than the 1,000 allowed"):
        read_factors("w.npz", archive(**{f"W{n}": b"" for n in range(1001)}), {"W1": (1, 1)})


def test_what_unpacks_to_many_times_its_size_is_refused_before_it_is_unpacked():
    side = 1 + math.isqrt(FREELY // 8)
    zeros = member((side, side), body=bytes(8 * side * side))
    tracemalloc.start()
    assert re.fullmatch(r"d\.npz: unpacks to 128 MiB, \d+ times its size: if .* numpy\.savez.*", message(archive(target=zeros)))
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    half = member((side // 2, side), body=zeros[-8 * (side // 2) * side :])
    assert read_problem("d.npz", archive(target=half), None, False).shape == (side // 2, side)


def test_nothing_is_unpickled(tmp_path):
    class Touch:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    pickled = pickle.dumps(Touch())
    assert message(saved(target=np.array([[Touch()]]))) == "d.npz: holds Python objects, which are never loaded"
    assert message(archive(target=pickled)) == "d.npz: is not a readable .npz file"
    assert message(pickled) == "d.npz: is not a readable .npz file"
    assert not list(tmp_path.iterdir())


def test_a_member_with_a_wrong_checksum_is_refused():
    whole = saved(target=np.ones((3, 3)))
    at = whole.index(np.ones(1).tobytes())
    assert message(whole[:at] + b"\1" + whole[at + 1 :]) == "d.npz: is not a readable .npz file"


def test_an_array_without_a_name():
    with pytest.raises(DataError, match="must hold W1, W2"):
        read_factors("w.npz", archive(**{"": member((1, 1), body=bytes(8))}), {"W1": (1, 1)})


@pytest.mark.parametrize(
    ("content", "sensing", "wanted"),
    [
        (saved(target=np.ones((1,) * 9)), False, "target must be a matrix or tensor with entries, of order 8 at most"),
        (saved(measurements=np.ones((2,) + (1,) * 9), values=np.ones(2)), True, "measurements must have shape [N, rows, columns, ...]"),
        (saved(measurements=np.ones((2, 0, 3)), values=np.ones(2)), True, "measurements must have shape [N, rows, columns, ...], not [2, 0, 3]"),
        (saved(measurements=np.ones((2, 3)), values=np.ones(2)), True, "measurements must have shape [N, rows, columns, ...], not [2, 3]"),
        (saved(measurements=np.full((2, 1, 2), 1e300), target=np.full((1, 2), 1e300)), True, "measurements of target[0] is not a finite number"),
        (saved(target=np.full((2, 2), 4, np.longdouble) ** 4000), False, "target[0, 0] is not a finite number"),
    ],
)  # fmt: skip
def test_arrays_that_no_problem_has(content, sensing, wanted):
    assert message(content, sensing=sensing).startswith(f"d.npz: {wanted}")


def test_csv_rows_are_held_in_little_more_than_their_numbers():
    side = 300
    content = "".join(f"{n // side},{n % side},1\n" for n in range(side * side)).encode()
    tracemalloc.start()
    assert read_problem("d.csv", content, (side, side), False).count == side * side
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * side * side
