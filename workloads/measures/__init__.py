"""Numbers computed from the end-to-end matrix or tensor, for all lanes at once. A measure is a function with a `measure` above it."""

from workloads.kinds import discover
from workloads.measures.base import (
    MEASURES,
    Measure,
    beyond,
    code_of,
    column_names,
    find,
    held_meanwhile,
    is_final,
    is_state,
    measure,
    of_column,
    reference_of,
    undefined,
    watched,
)

__all__ = [
    "MEASURES",
    "Measure",
    "beyond",
    "code_of",
    "column_names",
    "find",
    "held_meanwhile",
    "is_final",
    "is_state",
    "measure",
    "of_column",
    "reference_of",
    "undefined",
    "watched",
]

discover(__name__, __path__)
