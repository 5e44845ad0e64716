"""Starts from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Self

from workloads.factorizations import Factorization
from workloads.inits.base import Init
from workloads.section import Conflict, FileRef

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workloads.inits.base import Dims, Files, Matrix, Rng


class FromFile(Init):
    """Factors from an ``.npz``: ``W1`` ... ``WL`` (the product is WL ... W1), or ``A1`` ... ``AN`` (and tucker's ``core``)."""

    kind = "file"
    example = "{kind: file, file: data/start.npz}"
    seeded = False

    file: FileRef
    """An .npz with the factors."""

    @property
    def data_file(self) -> FileRef:
        return self.file

    def with_data(self, content: bytes, digest: str) -> Self:
        _read(self.file.path, content)
        return self.model_copy(update={"file": FileRef(path=self.file.path, digest=digest)})

    def data_conflicts(self, factorization: Factorization, shape: tuple[int, ...], contents: Mapping[str, bytes]) -> Iterator[Conflict]:
        from workloads.arrays import DataError

        try:
            read_factors(self.file.path, contents[self.file.digest], factorization.shapes(shape))
        except DataError as error:
            yield "init.file", str(error)

    def draw(self, factorization: Factorization, shape: Dims, rng: Rng, files: Files) -> list[Matrix]:
        return read_factors(self.file.path, files[self.file.digest], factorization.shapes(shape))


def read_factors(name: str, content: bytes, shapes: Mapping[str, tuple[int, ...]]) -> list[Matrix]:
    """Return the factors of an ``.npz`` file, which have the names and ``shapes`` that their factorization gives them, in that order.

    Raises `workloads.arrays.DataError` if they have others, or if a number of them is not finite.
    """
    from workloads.arrays import DataError, finite

    arrays = _read(name, content)
    if set(arrays) != set(shapes):
        raise DataError(f"{name}: this factorization needs {', '.join(shapes)}, but the file holds {', '.join(sorted(arrays))}")
    for key, shape in shapes.items():
        if arrays[key].shape != tuple(shape):
            raise DataError(f"{name}: {key} must have shape {list(shape)}, not {list(arrays[key].shape)}")
    return [finite(name, key, arrays[key]) for key in shapes]


def _read(name: str, content: bytes) -> dict[str, NDArray[np.generic]]:
    """Read the arrays, whatever they are called."""
    from workloads.arrays import DataError, read_npz

    if not name.lower().endswith(".npz"):
        raise DataError(f"{name}: initial factors come in an .npz file")
    arrays = read_npz(name, content)
    if not arrays or not all(key.isidentifier() for key in arrays):
        raise DataError(f"{name}: must hold W1, W2, ... or A1, A2, ..., but holds {', '.join(sorted(arrays)) or 'nothing'}")
    return arrays
