"""What sensing problems have in common: inner products with measurements are observed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from workloads.problems.base import Problem
from workloads.section import LARGEST_SIZE, Conflict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workloads.problems.data.realized import ProblemData


class Sensing(Problem):
    """Inner products with ``observed`` standard normal or given measurements are observed."""

    sensing: ClassVar[bool] = True

    def _count_conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        if isinstance(self.observed, float):
            yield "problem.observed", "counts measurements here: a whole number, not a fraction of the entries"
        else:
            yield from self._size_conflicts(self.observations() or 0)

    def _size_conflicts(self, count: int) -> Iterator[Conflict]:
        """Yield that so many measurements have too many entries, if they have."""
        if (entries := self.measurement_entries(count)) > LARGEST_SIZE:
            yield "problem.observed", f"makes measurements of {entries:,} entries, more than the {LARGEST_SIZE:,} that can be trained on"

    def realize(self, files: Mapping[str, bytes]) -> ProblemData:
        """See `Problem.realize`. Measurements are drawn one after another, so that a larger ``observed`` contains the smaller."""
        from workloads.problems.data.realized import ProblemData
        from workloads.rng import Stream, generator

        flat, file = self.given(files)
        measurements, values = (None, None) if file is None else (file.measurements, file.values)
        assert self.shape is not None
        if measurements is None:
            count = self.observations()
            assert count is not None, "a drawn sensing problem says how many measurements it has"
            measurements = self.drawn(generator(self.seed, Stream.MEASUREMENTS), count)
        measurements = measurements.reshape(-1, self.size)
        if values is None:
            assert flat is not None, "measurements without values need a ground truth"
            values = measurements @ flat
        return ProblemData(self.shape, len(values), flat, measurements=measurements, values=self.noisy(values))

    def drawn(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Return so many measurements [N, D] that ``rng`` draws, one after another."""
        return rng.standard_normal((count, self.size))


class ProductSensing(Sensing):
    """Inner products with ``observed`` standard normal, rank-one or given measurements are observed."""

    measurements: Literal["rank_one"] | None = None
    """`rank_one` for outer products of vectors x_1, …, x_N whose entries are N(0, 1/d_n): standard normal entries unless given."""

    def drawn(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        if self.measurements is None:
            return super().drawn(rng, count)
        assert self.shape is not None
        return _outer_products(rng.standard_normal((count, sum(self.shape))), self.shape)

    def file_conflicts(self) -> Iterator[Conflict]:
        yield from super().file_conflicts()
        if self.measurements is not None and self.file is not None and self.file.count is not None:
            yield "problem.measurements", "has no effect: the data file has the measurements"


def _outer_products(drawn: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return x_1 x ... x x_N [N, D] of standard normal numbers [N, d_1 + ... + d_N], scaled so that its squared norm is one on average."""
    out, start = drawn[:, : shape[0]] / math.sqrt(shape[0]), shape[0]
    for n in shape[1:]:
        x = drawn[:, None, start : start + n] / math.sqrt(n)
        out, start = (out[:, :, None] * x).reshape(len(drawn), -1), start + n
    return out
