"""Grids that are damaged: their values, their text, what overrides them, the file itself."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from orchestrator.grid.source import parse
from orchestrator.grid.spreads import is_spread
from tests.chaos.hostile.values import EXPRESSIONS, NUMBERS, PATHS, SPECIAL, WORDS, value
from tests.chaos.hostile.written import Malformed, dump, write

CONFIGS = Path(__file__).parents[3] / "configs"


@cache
def _shipped() -> tuple[dict[str, Any], ...]:
    """The shipped grids, with few seeds, and one that has a section of every sort."""
    grids = []
    for path in sorted(CONFIGS.glob("*.yaml")):
        data = parse(path.read_text().replace("file: data/", f"file: {CONFIGS}/data/"), path.name).data
        # A hundred seeds are no more hostile than two, and take fifty times as long.
        few: dict[str, Any] = {"seeds": 2} if "seeds" in data else {}
        if any(is_spread(values) for values in data.get("zip", {}).values()):
            few["zip"] = dict.fromkeys(data["zip"], "0..1")
        grids.append({**data, **few})
    more = copy.deepcopy(grids[0])
    more.update(
        random={"samples": 2, "seed": 1, "optimizer.eps": {"loguniform": [1e-9, 1e-6]}},
        zip={"stop.check_every": [1, 2], "stop.consecutive": [3, 4]},
        exclude=[{"stop.check_every": 2}],
        resources={"cpus": 1, "gpus": 0, "engine": "auto"},
    )
    return (*grids, more)


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
            node.update({extra: value(choice)}) if isinstance(node, dict) else node.insert(0, value(choice))
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
            node[key] = value(choice)
    return f"{operation} {str(key)[:40]!r}"


def changed(choice: Random, folder: Path) -> Malformed:
    """Return a shipped grid with a few values or keys that are something else."""
    data = copy.deepcopy(choice.choice(_shipped()))
    done = [_mutate(choice, data) for _ in range(choice.choice([1, 1, 1, 2, 5]))]
    return Malformed(write(folder, dump(data)), (), "; ".join(done))


def damaged(choice: Random, folder: Path) -> Malformed:
    """Return a shipped grid with damage to the text itself."""
    text = dump(choice.choice(_shipped()))
    lines = text.splitlines(keepends=True)
    at = choice.randrange(len(text))
    row = choice.randrange(len(lines))
    key, _, rest = lines[row].partition(":")
    tag = choice.choice(["!!python/object/apply:os.system ['touch pwned']", "!!python/name:os.system", "!!binary aGk=", "!x y", "!!set {a}", "!!int '3'", "!<tag:x> 1", "! 3"])  # fmt: skip
    ways: dict[str, Any] = {
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
    what = choice.choice(list(ways))
    return Malformed(write(folder, ways[what]()), (), what)


def overridden(choice: Random, folder: Path) -> Malformed:
    """Return a shipped grid with ``--set`` options that make little sense."""
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
    return Malformed(write(folder, dump(data)), given, f"--set {given[0][:60]!r}")


def no_file(choice: Random, folder: Path) -> Malformed:
    """Return a grid that is no file, or none that ends."""
    path = folder / "g.yaml"
    what = choice.choice(list(SPECIAL))
    SPECIAL[what](path)
    return Malformed(path, (), what)
