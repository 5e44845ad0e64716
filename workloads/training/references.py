"""Arrays of data files that trials are measured against: what `record` calls by a name, for measures that have it in theirs.

No torch and no numpy here: planning needs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, SerializationInfo, model_serializer, model_validator

from workloads import measures
from workloads.section import MAX_ORDER, Section

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = r"[A-Za-z]\w*"
"""What an array may be called: it becomes a part of the name of a column."""
MAX_NAME = 60
_WRITTEN = re.compile(r"(.+?\.npz)(?::(.+))?", re.IGNORECASE | re.DOTALL)


class Reference(Section):
    """An array of an ``.npz`` file, written ``FILE.npz:ARRAY``, or ``FILE.npz`` where that holds one: once somebody has read it with the
    SHA-256 of the file's content and the array's ``shape``."""

    path: str
    array: str = ""
    digest: str = ""
    shape: tuple[int, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        # Nothing but text: what is in the file is for whoever reads it to say.
        found = _WRITTEN.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            raise ValueError("must be an array of an .npz file, written FILE.npz:ARRAY, or FILE.npz where that holds one")
        return {"path": found[1], "array": found[2] or ""}

    @model_serializer
    def _as_text(self, info: SerializationInfo) -> str:  # noqa: ARG002
        return f"{self.path}:{self.array}" if self.array else self.path

    @property
    def content(self) -> str:
        """Text that is equal for references to the same array of files of the same content."""
        return f"sha256:{self.digest}:{self.array}"

    def read(self, content: bytes, digest: str) -> Reference:
        """Return the reference to an array of a file with this ``content``. Raises `workloads.arrays.DataError` if it is not there."""
        from workloads.arrays import DataError, read_npz

        names = list(read_npz(self.path, content))
        if not self.array and len(names) != 1:
            several = f"{', '.join(sorted(names)[:5])}{', ...' if len(names) > 5 else ''}: say which, as {self.path}:{min(names)}"
            raise DataError(f"{self.path}: holds {several if names else 'no array'}")
        named = self.model_copy(update={"array": self.array or names[0], "digest": digest})
        return named.model_copy(update={"shape": named.numbers(content).shape})

    def numbers(self, content: bytes) -> NDArray[np.float64]:
        """Return the array [*shape]. Raises `workloads.arrays.DataError` if there is none of a vector's, matrix's or tensor's shape."""
        from workloads.arrays import DataError, finite, read_npz

        arrays = read_npz(self.path, content)
        if self.array not in arrays:
            raise DataError(f"{self.path}: holds no {self.array[:40]}, but {', '.join(sorted(arrays)[:5]) or 'nothing'}")
        array = arrays[self.array]
        if not (1 <= array.ndim <= MAX_ORDER and array.size):
            raise DataError(f"{self.path}: {self.array} must be a vector, matrix or tensor, not of shape {list(array.shape)}")
        return finite(self.path, self.array, array)


def _name(text: str) -> str:
    if not re.fullmatch(NAME, text, re.ASCII) or len(text) > MAX_NAME:
        raise ValueError(f"must be called by at most {MAX_NAME} letters, digits and _, a letter first, as columns are named after it")
    return text


References = dict[Annotated[str, AfterValidator(_name)], Reference]
"""Arrays by their names."""


def against(names: Iterable[str], references: Mapping[str, Reference]) -> dict[str, str]:
    """Return what those of the measures ``names`` that are against an array are against: the file's content, and which array of it."""
    arrays = {name: measures.reference_of(name) or "" for name in names}
    return {name: references[array].content for name, array in arrays.items() if array in references}
