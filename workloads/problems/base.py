"""What all problems have in common: where the ground truth comes from, and how much of it is seen."""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import AfterValidator

from workloads.kinds import Kind, Registry
from workloads.problems.noise import Noise
from workloads.problems.target import Target
from workloads.section import LARGEST_SIZE, Conflict, FileRef, Seed, Shape, canonical_json

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from workloads.problems.data.files import ProblemFile
    from workloads.problems.data.observations import Observations
    from workloads.problems.data.realized import ProblemData

PROBLEMS: Registry[Problem] = Registry("problem")


def _observed(value: int | float) -> int | float:
    if isinstance(value, float) and not 0 < value <= 1:
        raise ValueError("a fraction of the entries lies in (0, 1]; a count is a whole number of at least 1")
    if isinstance(value, int) and value < 1:
        raise ValueError("at least 1 observation is needed")
    if value > LARGEST_SIZE:
        raise ValueError(f"must be at most {LARGEST_SIZE:,}, not {value}")
    return value


Observed = Annotated[int | float, AfterValidator(_observed)]


class Problem(Kind):
    """What is to be recovered and what is seen of it.

    The ground truth is drawn (``target``), or read from ``file``; completion also takes ``entries``. ``observed`` is a count (integer) or
    a fraction (float) of the entries, or the number of measurements of a sensing problem.
    """

    registry: ClassVar[Registry[Any]] = PROBLEMS
    order: ClassVar[int | None] = 2
    """1 for vectors, 2 for matrices; ``None`` for tensors of order three and more."""
    sensing: ClassVar[bool] = False
    """True where inner products with measurements are observed, rather than entries."""
    picks: ClassVar[bool] = False
    """True where ``observed`` may pick from the observations that a file lists."""
    invents: ClassVar[bool] = False
    """True where `realize` makes the ground truth, by ``seed``, and what is seen of it: neither has to be given."""
    inputs: ClassVar[bool] = False
    """True where a function of inputs that are given is looked for, rather than a matrix or tensor."""

    shape: Shape | None = None
    """Dimensions of the matrix or tensor, or the one of a vector; of a `file` that holds the truth, the file's."""
    target: Target | None = None
    """A ground truth that is drawn by `problem.seed`."""
    file: FileRef | None = None
    """A data file beside the grid file, or in a bucket: an .npz, or a CSV of entries, one a row."""
    observed: Observed | None = None
    """How much is seen: a whole number counts entries, or measurements of a sensing problem; a fraction is one of all entries."""
    seed: Seed = 0
    """What the ground truth, what is seen of it, and noise are drawn by."""
    noise: Noise | None = None
    """Noise on what is observed, {std, seed, distribution, share}; the ground truth has none."""
    signs: bool | None = None
    """Whether only signs are seen, -1 or 1, after noise is added, if there is any; by default the numbers themselves are."""

    @property
    def size(self) -> int:
        """Number of entries of the vector, matrix or tensor."""
        return math.prod(self.shape or ())

    def observations(self) -> int | None:
        """Return the number of observations, where the spec alone tells it; ``None`` where the data file does."""
        if self.file is not None and self.file.count is not None:
            return self.file.count
        if isinstance(self.observed, float):
            return max(1, round(self.observed * self.size))
        return self.observed

    @property
    def listed(self) -> Mapping[tuple[int, ...], float]:
        """Values of observed entries by index, as far as the grid itself lists them."""
        return {}

    @property
    def truth_is_known(self) -> bool:
        """False where nothing but what is observed is given."""
        return self.file is None or self.file.count is None or self.file.truth

    @property
    def draws(self) -> bool:
        """True where ``seed`` changes the ground truth or what is seen of it."""
        return self.invents or self.target is not None or (self.file is not None and self.file.count is None) or self.noise_follows_seed

    @property
    def noise_follows_seed(self) -> bool:
        """True where there is noise that is drawn by ``seed``."""
        return self.noisily and self.noise is not None and self.noise.seed is None

    @property
    def noisily(self) -> bool:
        """True where there is noise on what is observed: of standard deviation 0, an end of an axis of them, there is none."""
        return self.noise is not None and self.noise.std > 0

    @property
    def sees_signs(self) -> bool:
        """True where all observations are -1 or 1."""
        return bool(self.signs)

    def held_out_entries(self) -> int:
        """Return the number of entries that are known but not trained on."""
        return 0

    def shown(self, batch: int | None) -> int:
        """Return for how many inputs a step evaluates the factorization: a mini-batch of ``batch``, or all; once where there are none."""
        return 1

    def noisy(self, values: NDArray[np.float64], where: NDArray[np.int64] | None = None, part: tuple[int, ...] = ()) -> NDArray[np.float64]:
        """Return ``values`` [N] as they are observed, with noise, or their signs; ``where`` [N] are the flat indices of entries, and
        ``part`` tells apart several draws.

        An entry has the same noise, and so has the n-th measurement, however many others are observed.
        """
        import numpy as np

        if self.noise is not None and self.noisily:
            drawn = self.noise.drawn(len(values) if where is None else self.size, self.seed, part)
            values = values + (drawn if where is None else drawn[where])
        return np.where(values < 0, -1.0, 1.0) if self.signs else values

    @property
    def canonical_fields(self) -> Any:
        fields = {**super().canonical_fields, **self._counts(), "seed": self.seed if self.draws else 0}
        if self.noise is not None and self.noisily:
            fields |= self.noise.canonical_beside(self.seed if self.draws else None)
        else:
            fields.pop("noise", None)
        if not self.signs:
            fields.pop("signs", None)
        if self.target is not None and self.shape is not None:
            fields["target"] = self.target.canonical_in(self.shape)
        return fields

    def _counts(self) -> dict[str, int]:
        """Return fractions of what is known as the counts that they are: both are the same problem."""
        return {"observed": self.observations() or 0} if isinstance(self.observed, float) and self.shape is not None else {}

    @cached_property
    def alike(self) -> str:
        """Text that is equal for problems that differ in their ``seed`` alone, and in nothing that has to be found out about them."""
        given = sorted(self.model_fields_set)
        return sys.intern(f"{given}{canonical_json({key: value for key, value in super().canonical_fields.items() if key != 'seed'})}")

    def sources(self) -> list[str]:
        """Which of the ways to give a ground truth are used."""
        return [name for name in ("entries", "target", "file") if getattr(self, name, None) is not None]

    def conflicts(self) -> Iterator[Conflict]:
        """Yield what the fields' types alone cannot refuse."""
        given = self.model_fields_set
        sources = self.sources()
        options = [name for name in ("entries", "target", "file") if name in type(self).model_fields]
        if not sources and not self.invents:
            yield "problem", f"needs a ground truth: one of {', '.join(options)}"
        elif len(sources) > 1:
            yield f"problem.{sources[1]}", f"has no effect beside problem.{sources[0]}: give one of {', '.join(options)}"
        if self.shape is None:
            if self.file is None:
                yield "problem", "needs shape, the dimensions of the vector, matrix or tensor"
            return
        yield from self._shape_conflicts(self.shape)
        yield from self._count_conflicts(self.shape)
        if "entries" in sources and self.signs is not None:
            yield "problem.signs", "has no effect with problem.entries: give signs as their values"
        if "entries" in sources:
            for key in ("observed", "held_out", "seed"):
                if key in given and not (key == "seed" and self.noise_follows_seed):
                    yield f"problem.{key}", "has no effect with problem.entries: nothing is drawn"

    def ineffective(self) -> Iterator[Conflict]:
        """Yield the keys that make no difference to this problem, though they may to others of a grid."""
        if self.noise is not None and not self.noisily:
            for key in ("seed", "distribution", "share"):
                if getattr(self.noise, key) is not None:
                    yield f"problem.noise.{key}", "has no effect: problem.noise.std is 0, which is no noise"
        if self.target is not None and self.shape is not None:
            yield from self.target.ineffective(self.shape)

    def _shape_conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        if self.order is not None and len(shape) != self.order:
            about = "vectors: one dimension" if self.order == 1 else "matrices: two dimensions"
            yield "problem.shape", f"{self.kind} is about {about}, not {len(shape)}"
        if self.order is None and len(shape) < 3:
            yield "problem.shape", f"{self.kind} needs three dimensions or more, not {len(shape)}"
        if self.target is not None:
            yield from self.target.conflicts(shape)
            if self.observed is None:
                yield "problem", "needs observed: how many entries (or measurements) of the drawn target are seen"

    def _count_conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        """Yield what is wrong with the number of observations."""
        return iter(())

    @property
    def data_file(self) -> FileRef | None:
        return self.file

    def with_data(self, content: bytes, digest: str) -> Self:
        assert self.file is not None
        file = self.read(content)
        reference = FileRef(path=self.file.path, digest=digest, count=file.count, truth=file.truth is not None)
        return self.model_copy(update={"file": reference, "shape": tuple(int(n) for n in file.shape)})

    def file_conflicts(self) -> Iterator[Conflict]:
        if self.file is None:
            return
        if self.file.count is not None:
            for key, matters in (("observed", self.picks), ("seed", self.draws)):
                if key in self.model_fields_set and not matters:
                    yield f"problem.{key}", "has no effect: the data file says what is observed"
        elif self.observed is None:
            yield "problem", "needs observed: how many entries (or measurements) of the file's target are seen"

    def read(self, content: bytes) -> ProblemFile:
        """Return what the ``content`` of the data file says. Raises `workloads.arrays.DataError`."""
        from workloads.problems.data.files import read_problem

        assert self.file is not None
        return read_problem(self.file.path, content, self.shape, self.sensing, least=1 if self.order == 1 else 2)

    @abstractmethod
    def realize(self, files: Mapping[str, bytes]) -> ProblemData:
        """Draw or read the problem's arrays, on the CPU and in float64; ``files`` maps SHA-256 digests to the content of data files.

        Raises `workloads.arrays.DataError` for a bad file.
        """

    def given(self, files: Mapping[str, bytes]) -> tuple[NDArray[np.float64] | None, ProblemFile | None]:
        """Return the ground truth [D], where it is given or drawn, and what the data file says, if there is one."""
        from workloads.problems.data.realized import draw_truth

        if self.shape is None:
            raise ValueError("the shape is filled in when the data file is read")
        file = None if self.file is None else self.read(files[self.file.digest])
        truth = file.truth if file is not None else None if self.target is None else draw_truth(self.target, self.shape, self.seed)
        return None if truth is None else truth.reshape(self.size), file

    @classmethod
    def observe(cls, problems: Sequence[ProblemData], dtype: torch.dtype, device: torch.device, shown: int = 1) -> Observations:
        """Return what R lanes observe, each of which has a problem of its own; a step is ``shown`` so many inputs."""
        from workloads.problems.data.observations import Measured, ObservedEntries

        return (Measured if cls.sensing else ObservedEntries)(problems, dtype, device)

    def cost(self, seen: int) -> tuple[int, int]:
        """Return what ``seen`` observations cost a lane in the batched engine: operations a step, and numbers held beside measurements.

        Of a sensing problem values and residual have an entry a measurement, dL/dW one an entry of the product; of observed entries the
        mask, the values and the residual all have the size of the product.
        """
        return (4 * seen * self.size, 2 * seen + self.size) if self.sensing else (4 * self.size, 3 * self.size)

    def measurement_entries(self, seen: int) -> int:
        """Return the number of entries of the arrays that measure, or are inputs; 0 where entries are observed."""
        return seen * self.size if self.sensing else 0

    def kept_entries(self, seen: int) -> int:
        """Return the number of entries, in float64, that are kept besides for as long as there are such trials."""
        return 0
