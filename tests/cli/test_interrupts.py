"""Signals while a sweep runs: the first is a wish, the second an end, and one that was ignored from the start is nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from orchestrator.cli.interrupts import SIGNALS, stoppable


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_wish_and_the_second_ends_it(number):
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    with stoppable() as stop, stop.listening():
        os.kill(os.getpid(), number)
        assert stop.wanted
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is signal.SIG_DFL


def test_where_there_is_nothing_to_save_the_first_ends_it():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with stoppable(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_what_is_ignored_from_the_start_stays_ignored_and_the_others_are_heard():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with stoppable() as stop, stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert not stop.wanted
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wanted
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
