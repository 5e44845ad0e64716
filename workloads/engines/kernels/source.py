"""What the generated kernels have in common: a writer of C++, and the vector type that all their arithmetic is in.

Warp compiles the code: with its own Clang for the machine's CPU, with NVRTC for a GPU. On a CPU a ``vec`` is a SIMD vector of Clang's
vector extension, on a GPU a single number; both know ``+ - * /``, so one source serves both. Products and sums are contracted into fused
multiply-adds on a CPU only where a block says so, and that on the expressions: a number has the same bits whatever the vectors' length.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from workloads.trial import ITEM_BYTES

SIMD_BYTES = 64
"""Bytes of a ``vec`` where several registers do not hurt: one of AVX-512, two of AVX2, four of NEON."""
REALS = {"float64": "double", "float32": "float"}
GOING = "(total > low) & (total - total == {none})"
"""Return whether training goes on: the loss is above its goal and finite. Infinity less itself is not a number, which compares false."""
AT_REST = -2.0
"""The goal of places in a group where no lane is in training; others' are -1 at least. They end no run, whatever is computed there: a
product of zeros may be no number."""


def simd_width(dtype: str) -> int:
    """Numbers in a ``vec`` of `SIMD_BYTES`."""
    return SIMD_BYTES // ITEM_BYTES[dtype]


@dataclass(frozen=True)
class Registers:
    """A CPU's SIMD registers: the bytes of each, and how many there are."""

    bytes: int
    count: int


@cache
def registers() -> Registers:
    """Return the SIMD registers of this machine: AVX-512, AVX2 or NEON."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return Registers(16, 32)
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        flags = ""
    return Registers(64, 32) if "avx512f" in flags else Registers(32, 16)


class Writer:
    """Lines of C++ with indentation."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._depth = 0

    def __call__(self, *lines: str) -> None:
        self._lines += ["    " * self._depth + line for line in lines]

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """``head { ... }``."""
        self(head + " {")
        self._depth += 1
        yield
        self._depth -= 1
        self("}")

    def loop(self, name: str, start: int | str, stop: int | str, by: int = 1) -> AbstractContextManager[None]:
        """Return a counting loop over ``name``."""
        return self.block(f"for (int {name} = {start}; {name} < {stop}; {name} += {by})")

    @property
    def text(self) -> str:
        """The code so far."""
        return "\n".join(self._lines) + "\n"


def vector_type(dtype: str, width: int) -> list[str]:
    """Definitions of ``real`` and of ``vec``, ``width`` of them; ``width`` 1 is a plain number."""
    real = REALS[dtype]
    lines = [f"typedef {real} real;"]
    if width == 1:
        return [*lines, "typedef real vec;"]
    # Aligned no more than a number is: tensors may start anywhere.
    size = ITEM_BYTES[dtype]
    return [*lines, f"typedef real vec __attribute__((vector_size({width * size}), aligned({size})));"]


def root(value: str, width: int) -> str:
    """Return the square root of a ``vec``."""
    # Of a lone float it may come as a double, with which the rest would be computed otherwise than in a vector.
    return f"real(sqrt({value}))" if width == 1 else f"__builtin_elementwise_sqrt({value})"


def everywhere(condition: str, width: int) -> str:
    """Return whether a comparison of ``vec`` holds in all places."""
    return f"({condition})" if width == 1 else f"__builtin_reduce_and({condition})"


def somewhere(condition: str, width: int) -> str:
    """Return whether a comparison of ``vec`` holds in any place."""
    return f"({condition})" if width == 1 else f"__builtin_reduce_or({condition})"


def sums(vectors: Sequence[str], width: int, name: str) -> tuple[list[str], list[str]]:
    """Code that adds up the ``width`` numbers in each of ``vectors``, a power of two of them, and expressions of the sums.

    Two vectors are folded into one a time, which takes a third of the instructions of sums one by one. ``name`` starts the names used.
    """
    if width == 1:
        return [], list(vectors)
    lines: list[str] = []
    level, length, part = list(vectors), width, width
    while part > 1:
        folded = []
        for n in range(0, len(level), 2):
            pair = level[n : n + 2]
            starts = [place * length + segment for place in range(len(pair)) for segment in range(0, length, part)]
            halves = [[start + half + k for start in starts for k in range(part // 2)] for half in (0, part // 2)]
            terms = (f"__builtin_shufflevector({pair[0]}, {pair[-1]}, {', '.join(map(str, half))})" for half in halves)
            folded.append(f"{name}_{part}_{n}")
            lines.append(f"const auto {folded[-1]} = {' + '.join(terms)};")
        length = len(halves[0])
        level, part = folded, part // 2
    return lines, [f"{level[n // width]}[{n % width}]" for n in range(len(vectors))]
