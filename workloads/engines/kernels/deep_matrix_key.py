"""What a deep matrix kernel is generated for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.engines.kernels.options import PLAIN, Options
from workloads.engines.kernels.source import SIMD_BYTES, registers, simd_width
from workloads.engines.kernels.updates import Update
from workloads.engines.pointwise import Pointwise
from workloads.trial import ITEM_BYTES

UNROLLED_PRODUCTS = 90
"""Up to this many multiplications in the products of a forward pass a kernel is straight-line code."""


@dataclass(frozen=True)
class DeepMatrixKey:
    """What a kernel is generated for.

    ``shapes`` of W_1 ... W_L, each [width_l, width_(l-1)]; the number of ``measurements`` (0: completion); ``lanes`` V in a group;
    how many ``registers`` there are for tiles; the optimizer's ``options``; the ``loss``, ``None`` for a multiple of the sum of squares.
    ``threads`` says that each group, of one lane, has a thread of a GPU: tables are then entry by entry, with all groups side by side,
    so that neighbouring threads read neighbouring numbers.
    """

    shapes: tuple[tuple[int, int], ...]
    measurements: int
    optimizer: str
    dtype: str
    lanes: int
    threads: bool = False
    registers: int = 32
    options: Options = PLAIN
    loss: Pointwise | None = None
    shared: bool = False

    @property
    def size(self) -> int:
        """Entries of the product."""
        return self.rows * self.columns

    @property
    def rows(self) -> int:
        """Rows of the product."""
        return self.shapes[-1][0]

    @property
    def columns(self) -> int:
        """Columns of the product."""
        return self.shapes[0][1]

    @property
    def parameters(self) -> int:
        """Entries of all factors."""
        return sum(out * into for out, into in self.shapes)

    @property
    def update(self) -> Update:
        """The optimizer's step."""
        return Update.of(self.optimizer, self.options)

    @property
    def state(self) -> int:
        """Entries of optimizer state."""
        return len(self.update.arrays) * self.parameters + len(self.update.numbers)

    @property
    def workspace(self) -> int:
        """Entries of scratch memory that a group needs."""
        room = self.options.room(self.measurements or self.size, self.dtype, threads=self.threads)
        if self.unrolled:
            return room
        prefixes = sum(out * self.columns for out, _ in self.shapes[1:])
        widest = max(max(out, into) for out, into in self.shapes)
        gradients = self.parameters if self.update.whole else 0
        return prefixes + 2 * widest * self.columns + gradients + self.measurements + room

    @property
    def unrolled(self) -> bool:
        """True if the kernel is straight-line code."""
        products = sum(out * into * self.columns for out, into in self.shapes[1:]) + self.measurements * self.rows * self.columns
        return products <= UNROLLED_PRODUCTS and self.parameters <= UNROLLED_PRODUCTS


def cpu_key(
    shapes: tuple[tuple[int, int], ...],
    measurements: int,
    optimizer: str,
    dtype: str,
    options: Options = PLAIN,
    loss: Pointwise | None = None,
) -> DeepMatrixKey:
    """Return the key for groups of lanes on this machine's CPU."""
    there = registers()
    key = DeepMatrixKey(shapes, measurements, optimizer, dtype, simd_width(dtype), registers=there.count, options=options, loss=loss)
    if key.unrolled:
        # Chains of products wait for each other: with two registers a vector there are two chains.
        return replace(key, lanes=min(SIMD_BYTES, 2 * there.bytes) // ITEM_BYTES[dtype])
    return replace(key, lanes=there.bytes // ITEM_BYTES[dtype])
