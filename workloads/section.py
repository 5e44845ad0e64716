"""What every part of a grid file is made of: frozen, strict models, and the types of their numbers.

This module imports neither torch nor numpy: planning a grid has to start in a fraction of a second.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SerializationInfo, model_serializer, model_validator

LARGEST_COUNT = 2**53
"""Up to here floating point, which YAML's ``1e6`` and all estimates are, holds every whole number."""
LARGEST_SIZE = 1 << 32
"""Entries of a matrix or tensor, of all parameters, or of all measurements: 32 GiB in float64, several times of which a trial needs."""
MAX_ORDER = 8


def _whole(value: object) -> object:
    """Accept ``1e6`` where an integer is meant: YAML has no exponent for integers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def as_tuple(value: object) -> object:
    """Return lists as tuples, inner ones too: YAML has lists only, and strict tuples would refuse them."""
    return tuple(as_tuple(item) for item in value) if isinstance(value, list) else value


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > LARGEST_SIZE:
        raise ValueError(f"has {math.prod(shape):,} entries, more than the {LARGEST_SIZE:,} that can be trained")
    return shape


Whole = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[Whole, Field(ge=1, le=LARGEST_COUNT)]
Counts = Annotated[tuple[Count, ...], BeforeValidator(as_tuple)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[Finite, Field(gt=0)]
SMALLEST, LARGEST = 1e-152, 1e152
"""Numbers whose squares, which losses and norms are made of, floating point holds as what they are."""
Magnitude = Annotated[Positive, Field(ge=SMALLEST, le=LARGEST)]
Shape = Annotated[tuple[Count, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=MAX_ORDER), AfterValidator(_dense)]

MADE = "_made"
"""Where a section keeps what it has made for others, beside what it has made for itself."""
Conflict = tuple[str, str]
"""A dotted key, and what is wrong with its value beside the others: keys without effect, sizes that do not fit."""
UNSET = ": where it is set for other trials, null takes it away"


class Section(BaseModel):
    """A part of a spec: frozen, strict, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=False)

    code: ClassVar[str] = ""
    """The SHA-256 of the code that it is from, where that is a user's own (`workloads.extensions`)."""

    @classmethod
    def codes(cls) -> frozenset[str]:
        """Return the digests of the users' code that it is from, and that what it builds on is from."""
        return frozenset(vars(base)["code"] for base in cls.__mro__ if vars(base).get("code"))

    @cached_property
    def canonical(self) -> str:
        """JSON that is equal exactly when the numbers are: sorted keys, resolved defaults, data files by digest."""
        return canonical_json(self.canonical_fields)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copied = super().model_copy(update=update, deep=deep)
        # They would be those of the original.
        for name in ("canonical", "alike", MADE):
            vars(copied).pop(name, None)
        return copied

    @property
    def canonical_fields(self) -> Any:
        """What `canonical` is made of."""
        return self.model_dump(mode="json", exclude_none=True, context={"canonical": True})


def canonical_json(value: object) -> str:
    """Return ``value`` as JSON, one text for equal values. Raises `ValueError` for numbers that are not finite."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


class FileRef(Section):
    """A data file: the path as the user wrote it and, once somebody has read it, the SHA-256 of its content and what is in it.

    ``count`` is the number of observations that it fixes, ``truth`` whether it holds the ground truth, and ``span`` the
    least and the largest number of its images.
    """

    path: str
    digest: str = ""
    count: int | None = None
    truth: bool = False
    span: tuple[float, float] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @model_serializer
    def _as_text(self, info: SerializationInfo) -> str:
        canonical = bool(info.context and info.context.get("canonical"))
        return f"sha256:{self.digest}" if canonical and self.digest else self.path


def flatten(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(dotted key, value)`` for every leaf of nested mappings, in order."""
    for key, value in nested.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{dotted}.")
        else:
            yield dotted, value
