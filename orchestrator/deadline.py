"""Calls that may never come back, such as those to a server that takes connections and says nothing: in threads nobody has to wait for."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import ParamSpec, TypeVar

HEARING_SECONDS = 0.2
"""After what time at most a signal is heard."""

P = ParamSpec("P")
T = TypeVar("T")


def in_background(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Future[T]:
    """Make a call in a daemon thread of its own, which keeps no process from ending."""
    future: Future[T] = Future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            future.set_result(context.run(call, *arguments, **named))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name=getattr(call, "__name__", "call"), daemon=True).start()
    return future


def within(seconds: float, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Return what a call returns, or raise what it raises. Raises `TimeoutError` if that takes longer: timeouts of sockets are for each
    piece of an answer, and a server that sends one byte after another uses up none of them.

    The call goes on in its thread. A signal to this one is heard meanwhile.
    """
    future, until = in_background(call, *arguments, **named), time.monotonic() + seconds
    while not future.done():
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"timed out after {seconds:g} s")
        # In short waits: of a signal that comes just before one Python hears at its end.
        wait([future], min(left, HEARING_SECONDS))
    return future.result()
