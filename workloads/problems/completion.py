"""What completion problems have in common: entries are observed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from workloads.problems.base import Problem
from workloads.section import Conflict, Finite, as_tuple

if TYPE_CHECKING:
    import torch

    from workloads.problems.data.observations import Observations
    from workloads.problems.data.realized import ProblemData


def _entry(entry: tuple[float, ...]) -> tuple[int | float, ...]:
    *index, value = entry
    return (*(int(i) if float(i).is_integer() else i for i in index), float(value))


Entry = Annotated[tuple[Finite, ...], BeforeValidator(as_tuple), Field(min_length=3), AfterValidator(_entry)]


class Completion(Problem):
    """Some entries are observed: ``entries`` lists them, or ``observed`` of the ground truth's are, the first of a seeded permutation."""

    entries: Annotated[tuple[Entry, ...], BeforeValidator(as_tuple), Field(min_length=1)] | None = None
    """The observed entries themselves, counted from 0: [row, column, value], or of a tensor more indices."""

    def conflicts(self) -> Iterator[Conflict]:
        yield from super().conflicts()
        if self.entries is None or self.shape is None:
            return
        seen: dict[tuple[float, ...], int] = {}
        for position, entry in enumerate(self.entries):
            *index, _ = entry
            key = f"problem.entries[{position}]"
            if len(index) != len(self.shape):
                yield key, f"needs {len(self.shape)} indices and a value, not {len(entry)} numbers"
            elif any(not isinstance(i, int) or not 0 <= i < n for i, n in zip(index, self.shape, strict=True)):
                yield key, f"index {index} lies outside shape {list(self.shape)} (counting from 0)"
            elif tuple(index) in seen:
                yield key, f"observes {index} again; it is entry {seen[tuple(index)]} already"
            seen.setdefault(tuple(index), position)

    def _count_conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        if (self.observations() or 0) > self.size:
            yield "problem.observed", f"is {self.observed}, but shape {list(shape)} has only {self.size} entries"

    def observations(self) -> int | None:
        return len(self.entries) if self.entries is not None else super().observations()

    @property
    def listed(self) -> Mapping[tuple[int, ...], float]:
        return {tuple(int(i) for i in index): float(value) for *index, value in self.entries or ()}

    @property
    def truth_is_known(self) -> bool:
        if self.observations() == self.size:
            return True
        return self.entries is None and super().truth_is_known

    @property
    def draws(self) -> bool:
        # Of a truth that is given and seen as a whole, the order in which it is seen makes no difference.
        return super().draws and (self.target is not None or self.observations() != self.size)

    def realize(self, files: Mapping[str, bytes]) -> ProblemData:
        """See `Problem.realize`. A larger ``observed`` contains the smaller."""
        import numpy as np

        from workloads.problems.data.realized import ProblemData
        from workloads.rng import Stream, generator

        flat, file = self.given(files)
        indices, values = (None, None) if file is None else (file.indices, file.values)
        assert self.shape is not None
        if self.entries is not None:
            table = np.array(self.entries, dtype=np.float64)
            indices, values = table[:, :-1].astype(np.int64), table[:, -1]
        if indices is not None:
            where = np.ravel_multi_index(tuple(indices.T), self.shape)
        else:
            order = generator(self.seed, Stream.OBSERVED).permutation(self.size)
            where = order[: self.observations()]
        if values is None:
            assert flat is not None, "observed entries without values need a ground truth"
            values = flat[where]
        mask = np.zeros(self.size, dtype=np.bool_)
        target = np.zeros(self.size)
        mask[where], target[where] = True, values
        if flat is None and mask.all():
            flat = target
        return ProblemData(self.shape, len(where), flat, mask=mask, target=target)

    @classmethod
    def observe(cls, problems: Sequence[ProblemData], dtype: torch.dtype, device: torch.device) -> Observations:
        from workloads.problems.data.observations import ObservedEntries

        return ObservedEntries(problems, dtype, device)

    def cost(self, seen: int) -> tuple[int, int]:
        """See `Problem.cost`: the mask, the values and the residual all have the size of the product."""
        return 4 * self.size, 3 * self.size
