"""Data files that are damaged, or lie: archives of arrays and tables."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np


class Pwn:
    """Unpickled, it would make a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("pwned"),)


def npy(header: bytes, body: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """An ``.npy`` member with any header at all."""
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + size + header + body


def zipped(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return out.getvalue()


def _plain(array: Any) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asanyarray(array), allow_pickle=True)
    return out.getvalue()


@cache
def bomb() -> bytes:
    """A quarter of a gigabyte of zeros in a few hundred kilobytes, which as float64 would be two gigabytes; five of them in one file."""
    member = npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (16384, 16384), }\n", bytes(1 << 28))
    return zipped([("target.npy", member)], zipfile.ZIP_DEFLATED)


def _header(choice: Random) -> bytes:
    """The header of an array that is not there."""
    shape = choice.choice(["(1048576, 1048576)", "(4294967296, 4294967296)", "(-1, 3)", "(3, 3)", "(0, 1152921504606846976)", "(3,)", "()", "3", "(3.0, 3)", "(True, 3)",
                           f"({'1,' * 40})", f"({'1,' * 20})", "(10**9, 10**9)", "(99999999999999999999, 3)", "None"])  # fmt: skip
    descr = choice.choice(["'<f8'", "'<f8'", "'|u1'", "'|O'", "'<U1000000000'", "'<U0'", "'|V0'", "'<c16'", "'<M8[s]'", "[('a', '<f8'), ('b', '|O')]", "'nonsense'", "None",
                           "__import__('os').system('touch pwned')", "'>f4'", "'<f2'", "[('a', '<f8', (1000000, 1000000))]"])  # fmt: skip
    text = f"{{'descr': {descr}, 'fortran_order': {choice.choice(['False', 'True', '2'])}, 'shape': {shape}, }}"
    return choice.choice([text, text, text, text[: len(text) // 2], "[" * 3000, f"{text:9999}", "{}"]).encode() + b"\n"


def _array(choice: Random, good: np.ndarray) -> Any:
    """Something like ``good``, and wrong."""
    wrong = [
        lambda: good.astype(object),
        lambda: np.array([[Pwn()]], dtype=object),
        lambda: good.astype(str),
        lambda: good.astype(complex),
        lambda: good.astype("M8[s]"),
        lambda: good.astype([("a", "f8")]),
        lambda: good.astype(np.float16),
        lambda: good.astype(np.longdouble) * np.longdouble("1e4000"),
        lambda: good.astype(np.uint64) + np.uint64(2**63),
        lambda: -good - 1,
        lambda: good + 0.5,
        lambda: good * 1e300,
        lambda: np.where(good == good.flat[0], choice.choice([np.nan, np.inf, -np.inf]), good),
        lambda: good[..., None],
        lambda: good.reshape((1,) * choice.choice([7, 30]) + good.shape),
        lambda: good[:0],
        lambda: good[..., :0],
        lambda: good.ravel(),
        lambda: good.ravel()[0],
        lambda: np.concatenate([good, good]),
        lambda: good.astype(bool),
        lambda: good,
    ]
    return choice.choice(wrong)()


def npz(choice: Random, arrays: dict[str, np.ndarray]) -> bytes:
    members = {name: _plain(array) for name, array in arrays.items()}
    name = choice.choice(list(members))
    whole = zipped([(f"{n}.npy", content) for n, content in members.items()])
    at = choice.randrange(len(whole))
    match choice.randrange(16):
        case 0:
            return whole[:at]
        case 1:
            return whole[:at] + choice.randbytes(choice.randrange(1, 9)) + whole[at + choice.randrange(9) :]
        case 2:
            return choice.choice(
                [
                    b"",
                    b"PK",
                    b"PK\x05\x06" + bytes(18),
                    choice.randbytes(200),
                    pickle.dumps(Pwn()),
                    members[name],
                    whole + b"tail",
                    b"x" * 9 + whole,
                ]
            )
        case 3:
            del members[name]
        case 4:
            slips = ["", "x", f"{name}s", name.upper(), "../../pwned", "/tmp/pwned", "a\nb", "\x1b[2J", "W9", "A1", "k" * 5000, "é"]
            members[choice.choice(slips)] = members.pop(name)
        case 5:
            return zipped([(choice.choice([".npy", "", "target", "W1"]), members[name]), *((f"{n}.npy", c) for n, c in members.items())])
        case 6 | 7:
            version = choice.choice([(1, 0), (1, 0), (2, 0), (3, 0), (9, 9)])
            members[name] = npy(_header(choice), choice.randbytes(choice.choice([0, 72, 100])), version)
        case 8:
            members[name] = choice.choice(
                [b"", b"text", b"\x93NUMPY", pickle.dumps(Pwn()), members[name][:-9], members[name] + b"more", whole]
            )
        case 9:
            return bomb() if choice.random() < 0.1 else _forged(choice, whole)
        case _:
            members[name] = _plain(_array(choice, arrays[name]))
    return zipped([(f"{n}.npy", content) for n, content in members.items()], choice.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))


def _forged(choice: Random, whole: bytes) -> bytes:
    """The archive with its directory telling lies: sizes, methods, encryption."""
    at = whole.index(b"PK\x01\x02")
    offset, form, value = choice.choice(
        [
            (8, "<H", 1),
            (10, "<H", 99),
            (20, "<I", 2**32 - 2),
            (24, "<I", 2**32 - 2),
            (24, "<I", 3),
            (16, "<I", 7),
            (42, "<I", 10**6),
            (28, "<H", 65535),
        ]
    )
    return whole[: at + offset] + struct.pack(form, value) + whole[at + offset + struct.calcsize(form) :]


def csv(choice: Random) -> bytes:
    rows = [["i", "j", "value"], *([str(n // 3), str(n % 3), f"{n / 7:g}"] for n in range(5))]
    row, column = choice.randrange(6), choice.randrange(3)
    cells = [
        "-1",
        "3",
        "9" * 400,
        "1e400",
        "nan",
        "inf",
        "-0.0",
        "0.5",
        "1_0",
        "",
        " ",
        "x",
        "=cmd()",
        "٣",
        "0x1",
        "1e",
        "\0",
        '"',
        "'0'",
        "1;2",
        "é",
        "9" * 200_000,
        "\x1b[2J",
    ]
    match choice.randrange(8):
        case 0 | 1 | 2:
            rows[row][column] = choice.choice(cells)
        case 3:
            rows[row] = rows[row][:column] if choice.random() < 0.5 else rows[row] * 2
        case 4:
            rows = rows[: choice.randrange(3)] + rows[:row]
        case 5:
            return ";".join(map(",".join, rows)).encode()
        case 6:
            return choice.choice(
                [
                    b"",
                    b"\n\n\n",
                    b"\0" * 100,
                    b"\xff\xfe0\x00",
                    choice.randbytes(300),
                    b'"' + b"0,0,1\n" * 50,
                    b"0,0,1\r" * 3,
                    b"," * 9999,
                    b"0,0,1\n" * 20_000,
                ]
            )
        case 7:
            return "\n".join(map(",".join, rows)).encode(choice.choice(["utf-16", "utf-32", "utf-8-sig"]))[: choice.randrange(200)]
    return "\n".join(map(",".join, rows)).encode()
