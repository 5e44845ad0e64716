"""Values that are wrong nearly everywhere: words, numbers, paths, expressions, and what a path may lead to."""

from __future__ import annotations

import os
from random import Random
from typing import Any

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


def value(choice: Random, depth: int = 0) -> Any:
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
            return [value(choice, depth + 1) for _ in range(choice.randrange(4))]
        case 11 | 12:
            return {choice.choice(WORDS): value(choice, depth + 1) for _ in range(choice.randrange(4))}
    deep = value(choice, 9)
    for _ in range(choice.choice([5, 30, 60])):
        deep = [deep] if choice.random() < 0.5 else {"k": deep}
    return deep
