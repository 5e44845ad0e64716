"""The C++ of traced factorizations."""

from __future__ import annotations

from workloads.engines.kernels.grouped_source import Body
from workloads.engines.kernels.source import Writer
from workloads.engines.kernels.traced_key import TracedKey
from workloads.engines.kernels.traced_loops import Loops
from workloads.engines.kernels.traced_rows import Rows
from workloads.engines.kernels.traced_straight import Straight


def traced_body(key: TracedKey, write: Writer) -> Body:
    """Return what is written between the loop and the stop check."""
    if key.straight:
        return Straight(key, write)
    # What a thread of a GPU has is a number.
    return Rows(key, write) if key.rows and not key.threads else Loops(key, write)
