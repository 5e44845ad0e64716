"""Calls with an end: what they return or raise, and that nobody waits for those that do not come to one."""

from __future__ import annotations

import contextvars
import os
import signal
import threading

import pytest

from orchestrator.deadline import in_background, within

PLACE = contextvars.ContextVar("PLACE", default="here")


def test_what_a_call_returns_and_raises_is_passed_on():
    assert within(60, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        within(60, divmod, 7, 0)
    token = PLACE.set("there")
    assert within(60, PLACE.get) == "there"
    PLACE.reset(token)


def test_what_does_not_come_back_is_left_behind():
    over = threading.Event()
    with pytest.raises(TimeoutError, match=r"timed out after 0\.05 s"):
        within(0.05, over.wait)
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "wait"] == [True]
    over.set()


def test_a_signal_is_heard_meanwhile():
    over = threading.Event()

    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        over.wait()

    with pytest.raises(KeyboardInterrupt):
        within(3600, interrupted)
    over.set()


def test_in_the_background_it_is_done_once():
    done = in_background(threading.get_ident)
    assert done.result(60) != threading.get_ident()
