"""How a sweep shows itself to scripts and notebooks."""

from __future__ import annotations

import io
import sys

import pytest

from orchestrator.execution.progress import State
from orchestrator.scripting import display
from orchestrator.scripting.display import showing


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def at_once(monkeypatch):
    """Every update is worth a line."""
    monkeypatch.setattr(display, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(display, "UPDATE_SECONDS", 0.0)


def say(stream, monkeypatch, progress=True):
    monkeypatch.setattr(sys, "stderr", stream)
    state = State(trials=5, reused=2, budget=0)
    with showing(progress) as reporter:
        reporter.note("begun")
        reporter.update(state)
        reporter.note("a pack is back")
        reporter.update(state)
    return stream.getvalue()


def test_a_pipe_gets_lines_and_a_terminal_one_that_is_updated(monkeypatch, at_once):
    assert say(io.StringIO(), monkeypatch) == "begun\n2/5 trials\na pack is back\n2/5 trials\n"
    clear = "\r\x1b[2K"
    assert say(Terminal(), monkeypatch) == f"begun\n2/5 trials{clear}a pack is back\n2/5 trials{clear}"


def test_updates_come_now_and_then(monkeypatch):
    assert say(io.StringIO(), monkeypatch) == "begun\na pack is back\n"


def test_without_progress_nothing_is_said(monkeypatch, at_once):
    assert say(Terminal(), monkeypatch, progress=False) == ""


class Gone(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


def test_a_reader_that_is_gone_does_not_end_a_sweep(monkeypatch, at_once):
    assert say(Gone(), monkeypatch) == ""
