"""Let all Python code of a process see a clock that is wrong by as much as a file says, at any time: on the path, Python imports this first.

The machine's clock stays as it is, and so do those that cannot be set (`time.monotonic`). What is not Python sees the right time. (Debian's
faketime would deceive all of it, but `time.sleep` fails beneath it.)
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

FILE = "ORCHESTRATE_TEST_CLOCK"
"""The environment variable that names the file: seconds, as a double."""


def _set() -> None:
    with Path(os.environ[FILE]).open("rb") as file:
        seconds = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    now, now_ns = time.time, time.time_ns

    def wrong_by() -> float:
        return float(struct.unpack_from("d", seconds)[0])

    def shifted() -> float:
        return now() + wrong_by()

    def shifted_ns() -> int:
        return now_ns() + int(wrong_by() * 1e9)

    time.time, time.time_ns = shifted, shifted_ns


if FILE in os.environ:
    _set()
