"""Linear regression."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from workloads.problems.held_out import HeldOut
from workloads.problems.sensing import Sensing
from workloads.section import Conflict, Finite

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workloads.problems.data.files import ProblemFile
    from workloads.problems.data.realized import ProblemData


class Regression(HeldOut, Sensing):
    """y_n = <x_n, w*>, with noise if there is any, is observed for ``observed`` examples: rows x_n of a design that is drawn or given.

    Of a drawn design ``held_out`` is a number of further rows; of a file's a number or a fraction of its rows.
    """

    kind = "regression"
    example = "{kind: regression, shape: [40], target: {sparsity: 4}, observed: 20, held_out: 200, noise: {std: 0.1}}"
    order: ClassVar[int | None] = 1
    picks: ClassVar[bool] = True

    correlation: Annotated[Finite, Field(gt=-1, lt=1)] | None = None
    """Of drawn rows: features i and j, each of variance 1, have the correlation c^|i - j|; independent unless given."""

    @property
    def canonical_fields(self) -> Any:
        fields = super().canonical_fields
        if not self.correlation:
            fields.pop("correlation", None)
        if self.lists and self.observations() == self.known() - self.held_out_entries():
            # Either says the other, whichever is given; of all that is known neither has to be.
            fields = {key: value for key, value in fields.items() if key not in ("observed", "held_out")}
            fields |= {"observed": self.observations()} if self.held_out_entries() else {}
        return fields

    def known(self) -> int:
        return (self.file.count if self.file is not None else None) or 0

    def held_out_entries(self) -> int:
        return super().held_out_entries() if self.lists or self.held_out is not None else 0

    @property
    def draws(self) -> bool:
        # Of what is given and seen as a whole, the order in which it is seen makes no difference.
        return self.observations() != self.known() or self.noise_follows_seed if self.lists else super().draws

    def _count_conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        if not self.lists:
            for key in ("observed", "held_out"):
                if isinstance(getattr(self, key), float):
                    yield f"problem.{key}", "counts examples that are drawn: a whole number, not a fraction"
                    return
        else:
            known, held = self.known(), self.held_out_entries() if self.held_out is not None else 0
            if held >= known:
                yield "problem.held_out", f"is {self.held_out}, which leaves nothing to train on of {known} examples in the file"
            elif (self.observations() or 0) + held > known:
                beside = f" beside held_out: {self.held_out}" if held else ""
                yield "problem.observed", f"is {self.observed}{beside}, but the file has only {known} examples"
        yield from self._size_conflicts((self.observations() or 0) + (0 if self.lists else self.held_out_entries()))

    def ineffective(self) -> Iterator[Conflict]:
        yield from super().ineffective()
        if self.correlation is not None and self.size == 1:
            yield "problem.correlation", "has no effect: there is a single feature"

    def file_conflicts(self) -> Iterator[Conflict]:
        yield from super().file_conflicts()
        if self.correlation is not None and self.lists:
            yield "problem.correlation", "has no effect: the data file has the design"

    def read(self, content: bytes) -> ProblemFile:
        from workloads.problems.data.files import read_design

        assert self.file is not None
        return read_design(self.file.path, content, self.shape)

    def realize(self, files: Mapping[str, bytes]) -> ProblemData:
        """See `Problem.realize`. A larger ``observed`` contains the smaller, and what is held out does not depend on it."""
        import numpy as np

        from workloads.problems.data.realized import ProblemData
        from workloads.rng import Stream, generator

        flat, file = self.given(files)
        count, held, shape = self.observations(), self.held_out_entries(), self.shape
        assert count is not None, "a drawn design has a number of rows"
        assert shape is not None
        if file is not None and file.measurements is not None and file.values is not None:
            rows, values = file.measurements, self.noisy(file.values)
            order = np.arange(len(rows)) if count == len(rows) else generator(self.seed, Stream.OBSERVED).permutation(len(rows))
            seen, last = order[:count], order[len(order) - held :]
            unseen = (rows[last], values[last]) if held else None
            return ProblemData(shape, count, flat, measurements=rows[seen], values=values[seen], held_out_measurements=unseen)
        assert flat is not None, "a drawn design needs a ground truth"
        parts = []
        # What is held out is drawn apart.
        for part, number in (((), count), ((1,), held)):
            rows = self.drawn(generator(self.seed, Stream.MEASUREMENTS, *part), number)
            parts.append((rows, self.noisy(rows @ flat, part=part)))
        (rows, values), unseen = parts
        return ProblemData(shape, count, flat, measurements=rows, values=values, held_out_measurements=unseen if held else None)

    def drawn(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Return so many rows [N, D]: of features that follow on each other as an autoregressive process where they are correlated."""
        rows = super().drawn(rng, count)
        if self.correlation is not None:
            for feature in range(1, self.size):
                rows[:, feature] *= math.sqrt(1 - self.correlation**2)
                rows[:, feature] += self.correlation * rows[:, feature - 1]
        return rows
