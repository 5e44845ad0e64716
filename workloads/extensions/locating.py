"""Where in a user's code something went wrong, and calls into it that may never come back."""

from __future__ import annotations

import ctypes
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

PLACES: set[str] = set()
"""The names that files of users' code go by in this process."""
MESSAGE = 300
"""Characters of an exception's own words."""
ENDING_SECONDS = 2.0
"""How long a call is waited for that was told to end."""

T = TypeVar("T")


class _GivenUp(BaseException):
    """Raised in the middle of a call that takes too long; no ``except Exception`` of a user's keeps it."""


class ExtensionError(Exception):
    """A user's code cannot be used; the message is one line that says where and why."""


def located(error: BaseException) -> str | None:
    """Return the file and line in a user's code at which an exception came; ``None`` where it came from elsewhere."""
    if isinstance(error, SyntaxError) and error.filename in PLACES:
        return f"{error.filename}:{error.lineno or 1}"
    lines = [f"{frame.f_code.co_filename}:{line}" for frame, line in _frames(error.__traceback__) if frame.f_code.co_filename in PLACES]
    return lines[-1] if lines else None


def _frames(trace: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def explained(error: BaseException) -> str | None:
    """Return an exception that came from a user's code as one line, ``file:line: what``; ``None`` for one from elsewhere."""
    place = located(error)
    if place is None:
        return None
    if isinstance(error, SyntaxError):
        return f"{place}: {error.msg}"
    words = " ".join(str(error).split())
    return f"{place}: {type(error).__name__}: {words[:MESSAGE]}" if words else f"{place}: {type(error).__name__}"


def traced(error: BaseException) -> str:
    """Return an exception's traceback; its last line names the place in a user's code, where it came from there."""
    text = "".join(traceback.format_exception(error))
    last = explained(error)
    return text if last is None else f"{text}{last}\n"


def within(seconds: float, call: Callable[[], T], what: str) -> T:
    """Return what a call into a user's code returns, or raise what it raises.

    Raises `ExtensionError`, which names the line that it is at, if that takes longer, and ends the call as soon as it comes to a line of
    Python: a process that ends while PyTorch is in the middle of it aborts.
    """
    outcome: list[tuple[bool, Any]] = []

    def work() -> None:
        try:
            outcome.append((True, call()))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=work, name=what, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        frame = sys._current_frames().get(thread.ident or 0)
        while frame is not None and frame.f_code.co_filename not in PLACES:
            frame = frame.f_back
        place = "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}: "
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_GivenUp))
        thread.join(ENDING_SECONDS)
        raise ExtensionError(f"{place}{what} takes more than {seconds:g} s: does it end?")
    done, value = outcome[0]
    if not done:
        raise value
    returned: T = value
    return returned
