"""What a person sees of what takes long, and nobody else does."""

from __future__ import annotations

import io
import sys

import pytest

from orchestrator.cli.progress import counted


class Terminal(io.StringIO):
    """Standard error as a person has it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "after", "seen"), [(Terminal, 0.0, True), (Terminal, 3600.0, False), (io.StringIO, 0.0, False)])
def test_what_takes_long_is_counted_on_a_terminal(monkeypatch, stream, after, seen):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream())
    with counted("expanding the grid", after=after) as advanced:
        advanced(0, 2000)
        advanced(1000, 2000)
    assert ("1,000 of 2,000 trials" in sys.stderr.getvalue()) == seen
    assert bool(sys.stderr.getvalue()) == seen
