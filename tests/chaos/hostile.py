"""Malformed grids and data files: each made by a seeded source of choices, so that a seed alone brings one back."""

from __future__ import annotations

import copy
import io
import os
import pickle
import struct
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml

from orchestrator.grid.source import parse

CONFIGS = Path(__file__).parents[2] / "configs"

WORDS = ["", " ", "x", "null", "a.b", "..", "/", "é", "\u202egnp", "💥", "\0", "a\nb", "\x1b[2J", "\u2028", "9" * 400, "k" * 3000, "a." * 300, "__class__",
         "kind", "<<", "*", "&a", "!!int", "$(touch pwned)", "`touch pwned`", "; touch pwned", "{}", "%s%n", "{0.__class__}", "../../pwned", "-rf", "2020-01-01"]  # fmt: skip
NUMBERS = [0, -1, 1, 2, 3, 7, 0.0, -0.0, 0.5, 1.5, 1e-320, 1e-300, 1e-9, 1e9, 1e15, 1e16, 1e19, 1e300, 1.7e308, 2**31, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**63,
           2**64, 10**100, 10**299, -(10**299), float("inf"), float("-inf"), float("nan"), True, False]  # fmt: skip
PATHS = ["/dev/zero", "/dev/stdin", "/dev/tty", "/proc/self/mem", "/", ".", "..", "d.npz\0", "~/.ssh/id_rsa", "../d.npz", "d.npz/..", "n" * 300 + ".npz", "http://localhost/d.npz",
         "file:///etc/passwd", "/etc/passwd", "/dev/zero.npz", "d.NPZ", "missing.csv", "\ud800.npz".encode("utf-8", "replace").decode()]  # fmt: skip
EXPRESSIONS = [
    "__import__('os').system('touch pwned')", "().__class__.__bases__[0].__subclasses__()", "open('pwned', 'w')", "exec('1')", "eval(loss)", "loss; loss", "lambda: 1",
    "9**9**9**9**9 > loss", "10**400 > loss", "loss ** 1e400 > 0", "'" + "a" * 400 + "' == loss", "loss > " + "9" * 900, "1" * 400 + " < loss", "(" * 300 + "loss" + ")" * 300,
    "-" * 400 + "loss", "not " * 200 + "loss > 0", "+".join(["loss"] * 200), "loss" * 3000, "", " ", "loss >", "> loss", "loss > 0 > ", "loss in loss", "loss in []", "loss in [1] < 3",
    "[loss] > 1", "[1, 2] == loss", "loss in [[1]]", "loss in (1, *loss)", "min(loss)", "min(*loss, 1)", "max(loss, 1, 2)", "abs(x=1)", "abs()", "loss()", "first(loss", "first(1)",
    "first(first(loss))", "lowest(nothing) > 0", "loss if loss else 1", "loss := 1", "f'{loss}'", "b'x' == loss", "'\\d' == loss", "'\\ud800' == loss", "'\\N{BEL}' == loss", "'\n' == loss",
    "-'text'", "-(loss > 1) > 0", "'a' + 'b'", "loss == 'a' < 3", "loss\0 > 1", "loss > ١", "ｌｏｓｓ > 1", "1_000 > loss", "0x10 > loss", "0777 > loss", "1e999 > loss", "1j > loss",
    "loss.real > 0", "loss[0] > 1", "loss @ loss", "~loss", "loss // 2 > 1", "loss % 2 > 1", "loss << 99999", "sv_*", "*_*", "__import__('os')_*", ";_*", "true > 1", "true(3)", "nan > loss",
]  # fmt: skip
"""Expressions that are nonsense, or would do harm in a language that knows more."""


@dataclass(frozen=True)
class Malformed:
    """A grid file, overrides to load it with, and what was done to it."""

    path: Path
    overrides: tuple[str, ...]
    what: str


def malformed(choice: Random, folder: Path) -> Malformed:
    """Write one malformed grid, or one that names a malformed data file, into an empty ``folder``."""
    kind = choice.choices(["tree", "text", "data", "override", "special"], [45, 20, 25, 7, 3])[0]
    return {"tree": _tree, "text": _text, "data": _data, "override": _override, "special": _special}[kind](choice, folder)


# ------------------------------------------------------------------------------------------------------------------- grids


@cache
def _shipped() -> tuple[dict[str, Any], ...]:
    """The shipped grids, with few seeds, and one that has a section of every sort."""
    grids = []
    for path in sorted(CONFIGS.glob("*.yaml")):
        data = parse(path.read_text().replace("file: data/", f"file: {CONFIGS}/data/"), path.name).data
        grids.append({**data, "seeds": 2} if "seeds" in data else data)
    more = copy.deepcopy(grids[0])
    more.update(
        random={"samples": 2, "seed": 1, "optimizer.eps": {"loguniform": [1e-9, 1e-6]}},
        zip={"stop.check_every": [1, 2], "stop.consecutive": [3, 4]},
        exclude=[{"stop.check_every": 2}],
        resources={"cpus": 1, "gpus": 0, "engine": "auto"},
    )
    return (*grids, more)


def _dump(data: Any) -> str:
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6))


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):
    def ignore_aliases(self, _: Any) -> bool:
        return True


def _write(folder: Path, content: str | bytes) -> Path:
    path = folder / "g.yaml"
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return path


def _value(choice: Random, depth: int = 0) -> Any:
    """Any value at all: of the wrong type, size or shape for nearly every key."""
    match choice.randrange(14 if depth < 3 else 9):
        case 0 | 1 | 2:
            return choice.choice(NUMBERS)
        case 3 | 4:
            return choice.choice(WORDS)
        case 5:
            return choice.choice(EXPRESSIONS)
        case 6:
            return choice.choice(PATHS)
        case 7:
            return choice.choice([None, [], {}, [[]], [None], [{}]])
        case 8:
            return [choice.choice(NUMBERS)] * choice.choice([1, 2, 9, 3000])
        case 9 | 10:
            return [_value(choice, depth + 1) for _ in range(choice.randrange(4))]
        case 11 | 12:
            return {choice.choice(WORDS): _value(choice, depth + 1) for _ in range(choice.randrange(4))}
    value = _value(choice, 9)
    for _ in range(choice.choice([5, 30, 60])):
        value = [value] if choice.random() < 0.5 else {"k": value}
    return value


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or position) in a tree."""
    found = []
    for key, inner in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        found += [(node, key), *_places(inner)]
    return found


def _mutate(choice: Random, data: Any) -> str:
    node, key = choice.choice(_places(data) or [({}, "x")])
    operations = ["delete", "replace", "replace", "replace", "rename", "add", "swap", "expression", "many"]
    match operation := choice.choice(operations):
        case "delete" if key in node or isinstance(node, list):
            del node[key]
        case "rename" if isinstance(node, dict):
            items = list(node.items())
            node.clear()
            slip = choice.choice([*WORDS, f"{key}s", str(key)[1:], str(key).upper(), f"{key}.{key}", f" {key}"])
            node.update({slip if k == key else k: v for k, v in items})
        case "add":
            extra = choice.choice(WORDS)
            node.update({extra: _value(choice)}) if isinstance(node, dict) else node.insert(0, _value(choice))
        case "swap":
            other, there = choice.choice(_places(data))
            node[key] = copy.deepcopy(other[there])
        case "expression":
            asked = [place for top in ("figures", "claims") for place in _places(data.get(top, {}))] if isinstance(data, dict) else []
            inner, name = choice.choice(asked or [(node, key)])
            inner[name] = choice.choice(EXPRESSIONS)
        case "many":
            count = choice.choice([100, 2000])
            node[key] = {f"k{n}": n for n in range(count)} if choice.random() < 0.5 else [{f"k{n}": n} for n in range(count)]
        case _:
            node[key] = _value(choice)
    return f"{operation} {str(key)[:40]!r}"


def _tree(choice: Random, folder: Path) -> Malformed:
    data = copy.deepcopy(choice.choice(_shipped()))
    done = [_mutate(choice, data) for _ in range(choice.choice([1, 1, 1, 2, 5]))]
    return Malformed(_write(folder, _dump(data)), (), "; ".join(done))


def _text(choice: Random, folder: Path) -> Malformed:
    """Damage to the text itself."""
    text = _dump(choice.choice(_shipped()))
    lines = text.splitlines(keepends=True)
    at = choice.randrange(len(text))
    row = choice.randrange(len(lines))
    key, _, rest = lines[row].partition(":")
    tag = choice.choice(["!!python/object/apply:os.system ['touch pwned']", "!!python/name:os.system", "!!binary aGk=", "!x y", "!!set {a}", "!!int '3'", "!<tag:x> 1", "! 3"])  # fmt: skip
    damaged: dict[str, Any] = {
        "truncate": lambda: text[:at],
        "drop": lambda: text[:at] + text[at + choice.randrange(1, 200) :],
        "character": lambda: text[:at] + choice.choice([*"[]{}:,&*!|>'\"%@`#-?\t\0\x07\x85\ufeff\ufffe", "\r\n", "\\", "\ud800"]) + text[at:],
        "bytes": lambda: text[:at].encode() + choice.randbytes(choice.randrange(1, 64)) + text[at:].encode(),
        "binary": lambda: choice.randbytes(choice.randrange(1, 3000)),
        "utf-16": lambda: text.encode("utf-16"),
        "latin-1": lambda: (text + "# é").encode("latin-1", "replace"),
        "twice": lambda: "".join(lines[: row + 1] + lines[row:]),
        "moved": lambda: "".join([*lines[:row], choice.choice([" ", "    ", "\t"]) + lines[row], *lines[row + 1:]]),
        "shuffled": lambda: "".join(choice.sample(lines, len(lines))),
        "tag": lambda: "".join([*lines[:row], f"{key}: {tag}\n", *lines[row + 1 :]]),
        "merge": lambda: f"base: &b {{x: 1}}\n{text}<<: *b\n" if at % 2 else text.replace("fixed:\n", "fixed:\n  <<: {a: 1}\n"),
        "alias": lambda: "".join([*lines[:row], f"{key}: &a {rest.strip() or '[1]'}\n", *lines[row + 1 :], "extra: [*a, *b]\n"]),
        "bomb": lambda: f"{text}a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40)),
        "cycle": lambda: text + choice.choice(["c: &c [*c]\n", "c: &c {k: *c}\n", "? &c [*c]\n: 1\n", "*c : 1\n"]),
        "deep": lambda: text + "deep: " + choice.choice(["[", "{a: ", "- ", "? "]) * choice.choice([30, 60, 20_000]),
        "documents": lambda: text + choice.choice(["---\n", "...\n", "--- !!x\n", "%YAML 9.9\n---\n", "%TAG ! x\n"]) + text,
        "long": lambda: text + choice.choice(["? " + "a." * 9000 + "a\n: 1\n", "name2: " + "x" * 200_000, "# " + "c" * 200_000, "'" + "y" * 100_000]),
        "explicit": lambda: text + choice.choice(["? [a]\n: b\n", "? {a: b}\n: c\n", "? \n: b\n", "? |\n  a\n  b\n: c\n", ": x\n"]),
        "wide": lambda: text + "wide: [" + "1," * choice.choice([50_000, 1_200_000]) + "]\n",
        "keys": lambda: text + "".join(f"k{n}: {n}\n" for n in range(20_000)),
        "axes": lambda: text + "zip: {" + ", ".join(f"problem.k{n}: [1]" for n in range(3000)) + "}\n",
    }  # fmt: skip
    what = choice.choice(list(damaged))
    return Malformed(_write(folder, damaged[what]()), (), what)


def _override(choice: Random, folder: Path) -> Malformed:
    data = choice.choice(_shipped())
    keys = [f"{a}.{b}" for a, inner in data["fixed"].items() if isinstance(inner, dict) for b in inner] + list(data)
    keys += ["record.points", "record.steps", "resources.cpus", "resources.gpus", "random", "exclude", "fixed.seed", "problem", *WORDS]
    values = [
        *WORDS,
        *PATHS,
        *EXPRESSIONS,
        *map(str, NUMBERS),
        "[" * 50,
        "{a: [1, {b: 2}]}",
        "[1, 2, 2]",
        "!!python/name:os.system",
        "a: b: c",
        "*x",
    ]
    given = tuple(
        f"{choice.choice(keys)}{choice.choice(['=', '=', '=', '', '=='])}{choice.choice(values)}" for _ in range(choice.choice([1, 1, 3]))
    )
    return Malformed(_write(folder, _dump(data)), given, f"--set {given[0][:60]!r}")


def _special(choice: Random, folder: Path) -> Malformed:
    """A grid that is no file, or none that ends."""
    path = folder / "g.yaml"
    what = choice.choice(list(SPECIAL))
    SPECIAL[what](path)
    return Malformed(path, (), what)


SPECIAL = {
    "pipe": lambda path: os.mkfifo(path),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path),
    "dangling": lambda path: path.symlink_to(path.parent / "nowhere"),
    "missing": lambda _: None,
    "empty": lambda path: path.touch(),
    "sparse": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
}
"""What a path may lead to instead of a file that can be read."""

# -------------------------------------------------------------------------------------------------------------- data files


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


def _npz(choice: Random, arrays: dict[str, np.ndarray]) -> bytes:
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


def _csv(choice: Random) -> bytes:
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


def _data(choice: Random, folder: Path) -> Malformed:
    sensing, start = choice.random() < 0.25, choice.random() < 0.25
    kind = "matrix_sensing" if sensing else "matrix_completion"
    shape = choice.choice([[3, 3], [3, 3], None, [3, 4], [3, 3, 3], [2**53, 2**53], [10**18, 10**18], [0, 3], [3]])
    if len(shape or []) == 3 or choice.random() < 0.1:
        kind = kind.replace("matrix", "tensor")
    problem: dict[str, Any] = {"kind": kind, "shape": shape, "observed": choice.choice([None, 3, 0.5, 10**18])}
    data: dict[str, Any] = {
        "name": "data",
        "fixed": {
            "problem": {**{k: v for k, v in problem.items() if v is not None}},
            "factorization": choice.choice([{"kind": "deep_matrix", "depth": 2}, {"kind": "cp"}, {"kind": "cp"}]),
            "init": {"kind": "gaussian", "scale": 0.1},
            "optimizer": {"kind": "gd", "lr": 0.1},
            "stop": {"steps": 10},
        },
    }
    indices = np.array([[0, 0], [0, 1], [2, 2]])
    arrays = {"target": np.arange(9.0).reshape(3, 3) + 1}
    if sensing:
        arrays |= choice.choice([{}, {"measurements": np.ones((4, 3, 3)) * np.arange(1, 5)[:, None, None], "values": np.ones(4)}])
    else:
        arrays |= choice.choice([{}, {"indices": indices}, {"indices": indices, "values": np.ones(3)}])
    if start:
        arrays = {f"W{n + 1}": np.eye(3) + n for n in range(2)}
        data["fixed"]["problem"] = {"kind": "matrix_completion", "shape": [3, 3], "target": {"rank": 1}, "observed": 4}
    name = choice.choice(["d.npz", "d.npz", "d.npz", "d.csv", *PATHS])
    if start:
        data["fixed"]["init"] = {"kind": "file", "file": name}
    else:
        data["fixed"]["problem"]["file"] = name
    what = "content"
    if name in ("d.npz", "d.csv"):
        path = folder / name
        if choice.random() < 0.1:
            what = choice.choice(list(SPECIAL))
            SPECIAL[what](path)
        else:
            path.write_bytes(_csv(choice) if name == "d.csv" else _npz(choice, arrays))
    return Malformed(_write(folder, _dump(data)), (), f"{what} of {name[:40]!r}")
