"""Reconstruction: images are to come out of a function as they went in (arXiv 2010.00679, section 4)."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator

from workloads.problems.base import Observed, Problem
from workloads.section import LARGEST_SIZE, Conflict, FileRef, Seed

if TYPE_CHECKING:
    import torch

    from workloads.problems.data.observations import Observations
    from workloads.problems.data.realized import ProblemData

SMALLEST = 4
"""Pixels a side that a shape needs to be one."""


def _shapes_or_images(data: Literal["shapes"] | FileRef) -> Literal["shapes"] | FileRef:
    if data != "shapes" and not data.path.lower().endswith(".npz"):
        meant = "; did you mean shapes?" if difflib.get_close_matches(data.path, ["shapes"]) else ""
        raise ValueError(f"is {data.path[:40]!r}, neither shapes nor an .npz file{meant}")
    return data


class Reconstruction(Problem):
    """Images are to come out as they went in: drawn ones of a disc or a square each, or those of a file.

    A step sees all, or a mini-batch of ``optimizer.batch``: the loss is then that of the mini-batch which the next step sees.
    """

    kind = "reconstruction"
    example = "{kind: reconstruction, data: shapes, shape: [16, 16, 3], observed: 20_000, held_out: 2000}"
    data_key = "data"
    inputs = True
    # Nothing here has a ground truth, noise, or signs alone.
    target: ClassVar[None] = None  # type: ignore[misc]
    file: ClassVar[None] = None  # type: ignore[misc]
    noise: ClassVar[None] = None  # type: ignore[misc]
    signs: ClassVar[None] = None  # type: ignore[misc]

    data: Annotated[Literal["shapes"] | FileRef, AfterValidator(_shapes_or_images)] = "shapes"
    """`shapes` for images of one disc or square of a random colour, place and size, from 0 to 1; or an .npz with images [N, *shape]."""
    observed: Observed | None = None
    """How many images are trained on: of `shapes` a count, required; of a file a count or a fraction, else all that are not held out."""
    held_out: Observed | None = None
    """How many other images `held_out_error` and measures of codes look at: a count, or of a file's images a fraction."""
    seed: Seed = 0
    """What shapes are drawn by, and which images of a file are trained on and which held out."""

    @property
    def data_file(self) -> FileRef | None:
        return None if self.data == "shapes" else self.data

    @property
    def _known(self) -> int:
        """How many images a file has; 0 where there is none, or nobody has read it."""
        return 0 if self.data == "shapes" else self.data.count or 0

    def _count(self, of: int | float | None) -> int:
        return max(1, round(of * self._known)) if isinstance(of, float) else of or 0

    def observations(self) -> int | None:
        if self.observed is None:
            return self._known - self.held_out_entries() if self._known else None
        return None if isinstance(self.observed, float) and not self._known else self._count(self.observed)

    def held_out_entries(self) -> int:
        return self._count(self.held_out)

    @property
    def truth_is_known(self) -> bool:
        return False

    @property
    def draws(self) -> bool:
        return self.data == "shapes" or self.observations() != self._known

    def _counts(self) -> dict[str, int]:
        counts = {"observed": self.observations(), "held_out": self.held_out_entries()}
        return {key: count for key, count in counts.items() if count and isinstance(getattr(self, key), float) and self._known}

    def shown(self, batch: int | None) -> int:
        return batch or self.observations() or 1

    def conflicts(self) -> Iterator[Conflict]:
        if self.data == "shapes":
            yield from self._shapes_conflicts()
        elif self._known:
            yield from self._known_conflicts()
        if (self._seen + self.held_out_entries()) * self.size > LARGEST_SIZE:
            yield "problem.observed", f"makes images of more than the {LARGEST_SIZE:,} numbers that can be trained on"

    @property
    def _seen(self) -> int:
        return self.observations() or 0

    def _shapes_conflicts(self) -> Iterator[Conflict]:
        shape = self.shape
        if shape is None:
            yield "problem", "needs shape, that of an image of shapes: [16, 16, 3]"
        elif len(shape) != 3 or shape[0] != shape[1] or shape[0] < SMALLEST or shape[2] != 3:
            yield "problem.shape", f"of shapes is [n, n, 3] with n of at least {SMALLEST}, not {list(shape)}"
        if self.observed is None:
            yield "problem", "needs observed: how many images are trained on"
        for key in ("observed", "held_out"):
            if isinstance(getattr(self, key), float):
                yield f"problem.{key}", "counts images that are drawn: a whole number, not a fraction"

    def _known_conflicts(self) -> Iterator[Conflict]:
        if self.held_out_entries() >= self._known:
            yield "problem.held_out", f"is {self.held_out}, which leaves nothing to train on of the file's {self._known} images"
        elif self._seen + self.held_out_entries() > self._known:
            held = f" and {self.held_out_entries()} are held out" if self.held_out is not None else ""
            yield "problem.observed", f"is {self.observed}, but the file has {self._known} images{held}"

    def with_data(self, content: bytes, digest: str) -> Self:
        from workloads.problems.data.images import read_images

        assert self.data != "shapes"
        images = read_images(self.data.path, content, self.shape)
        reference = FileRef(path=self.data.path, digest=digest, count=len(images), span=(float(images.min()), float(images.max())))
        return self.model_copy(update={"data": reference, "shape": images.shape[1:]})

    def file_conflicts(self) -> Iterator[Conflict]:
        if "seed" in self.model_fields_set and not self.draws:
            yield "problem.seed", "has no effect: all images of the file are trained on"

    def realize(self, files: Mapping[str, bytes]) -> ProblemData:
        """See `Problem.realize`. A larger ``observed`` contains the smaller, and what is held out of shapes is always the same."""
        from workloads.problems.data.images import draw_shapes, read_images
        from workloads.problems.data.realized import ProblemData
        from workloads.rng import Stream, generator

        assert self.shape is not None
        seen, held = self._seen, self.held_out_entries()
        if self.data == "shapes":
            inputs, others = (
                draw_shapes(count, self.shape[0], generator(self.seed, Stream.OBSERVED, part)) for part, count in enumerate((seen, held))
            )
        else:
            images = read_images(self.data.path, files[self.data.digest], self.shape).reshape(self._known, -1)
            order = generator(self.seed, Stream.OBSERVED).permutation(self._known) if self.draws else slice(None)
            images = images[order]
            inputs, others = images[:seen], images[len(images) - held :]
        return ProblemData(self.shape, seen * self.size, None, inputs=inputs, held_out_inputs=others if held else None)

    @classmethod
    def observe(cls, problems: Sequence[ProblemData], dtype: torch.dtype, device: torch.device, shown: int = 1) -> Observations:
        from workloads.problems.data.shown import Shown

        return Shown(problems, dtype, device, shown)

    def cost(self, seen: int) -> tuple[int, int]:
        """See `Problem.cost`, for the images ``seen`` in a step: themselves and the residual."""
        return 4 * seen * self.size, 2 * seen * self.size

    def measurement_entries(self, seen: int) -> int:
        return seen * self.size

    def kept_entries(self, seen: int) -> int:
        return (seen + self.held_out_entries()) * self.size

    @property
    def canonical_fields(self) -> Any:
        fields = super().canonical_fields
        return {**fields, "observed": self._seen} if self._known else fields
