"""What completion problems have in common: entries are observed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from workloads.amounts import amount
from workloads.problems.held_out import HeldOut
from workloads.section import LARGEST, Conflict, Finite, as_tuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workloads.problems.data.realized import ProblemData

    Entries = NDArray[np.float64]
    Indices = NDArray[np.int64]
    Held = tuple[Indices, Entries]


def _entry(entry: tuple[float, ...]) -> tuple[int | float, ...]:
    *index, value = entry
    if abs(value) > LARGEST:
        raise ValueError(f"has a value beyond {LARGEST:g}, whose square floating point does not hold")
    return (*(int(i) if float(i).is_integer() else i for i in index), float(value))


Entry = Annotated[tuple[Finite, ...], BeforeValidator(as_tuple), Field(min_length=3), AfterValidator(_entry)]


class Completion(HeldOut):
    """Some entries are observed.

    ``entries`` lists them, or ``observed`` of what is known are, the first of a seeded permutation; ``held_out`` are the last of it.
    What is known is the ground truth, or the rows of a file that lists entries.
    """

    picks: ClassVar[bool] = True

    entries: Annotated[tuple[Entry, ...], BeforeValidator(as_tuple), Field(min_length=1)] | None = None
    """The observed entries themselves, counted from 0: [row, column, value], or of a tensor more indices."""

    @property
    def canonical_fields(self) -> Any:
        fields = super().canonical_fields
        if self.lists and self.observations() == self.known() - (self.held_out_entries() if self.held_out is not None else 0):
            fields.pop("observed", None)
        if self._holds_out_the_rest:
            fields.pop("held_out")
        return fields

    @property
    def _holds_out_the_rest(self) -> bool:
        """True where `held_out` says what it is without being given: all of the truth that is not observed."""
        return self.held_out is not None and not self.lists and self.held_out_entries() == self.known() - (self.observations() or 0)

    def conflicts(self) -> Iterator[Conflict]:
        yield from super().conflicts()
        if self.entries is None or self.shape is None:
            return
        seen: dict[tuple[float, ...], int] = {}
        for position, entry in enumerate(self.entries):
            *index, _ = entry
            key = f"problem.entries[{position}]"
            if len(index) != len(self.shape):
                yield key, f"needs {len(self.shape)} indices and a value, not {amount(len(entry), 'number')}"
            elif any(not isinstance(i, int) or not 0 <= i < n for i, n in zip(index, self.shape, strict=True)):
                yield key, f"index {index} lies outside shape {list(self.shape)} (counting from 0)"
            elif tuple(index) in seen:
                yield key, f"observes {index} again; it is entry {seen[tuple(index)]} already"
            seen.setdefault(tuple(index), position)

    def _count_conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        seen, known = self.observations() or 0, self.known()
        if self.held_out is not None and self.held_out_entries() >= known:
            yield "problem.held_out", f"is {self.held_out}, which leaves nothing to train on of {known} entries that are known"
        elif seen > known:
            of = f"shape {list(shape)} has only {self.size}" if known == self.size else f"the file lists only {known}"
            yield "problem.observed", f"is {self.observed}, but {of} entries"
        elif self.held_out is not None and seen + self.held_out_entries() > known:
            yield "problem.held_out", f"is {self.held_out}, but of {known} entries that are known {seen} are observed"

    def known(self) -> int:
        listed = self.file.count if self.file is not None else None
        return len(self.entries) if self.entries is not None else self.size if listed is None else listed

    def observations(self) -> int | None:
        return len(self.entries) if self.entries is not None else super().observations()

    def held_out_entries(self) -> int:
        if count := super().held_out_entries():
            return count
        # Of a file that lists entries and has the truth, the truth's others.
        return self.size - (self.observations() or 0) if self.truth_is_known else 0

    @property
    def sees_signs(self) -> bool:
        return super().sees_signs or (self.entries is not None and all(abs(entry[-1]) == 1 for entry in self.entries))

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
        # Of what is given and seen as a whole, the order in which it is seen makes no difference.
        chosen = self.file is not None and self.observations() != self.known()
        return self.target is not None or chosen or self.noise_follows_seed

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
        known = None if indices is None else np.ravel_multi_index(tuple(indices.T), self.shape)
        seen, count = self.known(), self.observations()
        order = None
        if known is None or count != seen:
            order = generator(self.seed, Stream.OBSERVED).permutation(seen)
        where = known if order is None else order[:count] if known is None else known[order[:count]]
        assert where is not None
        if values is None:
            assert flat is not None, "observed entries without values need a ground truth"
            field = flat
        else:
            assert known is not None, "values are of entries that are listed"
            field = np.zeros(self.size) if flat is None else flat.copy()
            field[known] = values
        mask = np.zeros(self.size, dtype=np.bool_)
        target = np.zeros(self.size)
        mask[where], target[where] = True, self.noisy(field[where], where)
        if flat is None and mask.all():
            flat = field
        return ProblemData(self.shape, len(where), flat, mask=mask, target=target, held_out=self._held_out(order, known, field, mask))

    def _held_out(self, order: Indices | None, known: Indices | None, field: Entries, mask: NDArray[np.bool_]) -> Held | None:
        """Return the flat indices and the values, noise included, of the entries that are held out.

        ``order`` is the permutation of what is ``known`` (all entries, if ``None``), whose values are in ``field`` [D], as are the truth's
        of all others, if there is one. ``None`` where they are those of the truth that are not observed, as it is.
        """
        import numpy as np

        if self.held_out is not None and order is not None and not self._holds_out_the_rest:
            last = order[len(order) - self.held_out_entries() :]
            where = last if known is None else known[last]
        elif known is not None and not mask[known].all():
            where = known[~mask[known]]
        elif (known is None and self.noisily) or (self.signs and self.truth_is_known):
            where = np.flatnonzero(~mask)
        else:
            return None
        return where, self.noisy(field[where], where)
