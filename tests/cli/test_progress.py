"""What a person sees of what takes long, and nobody else does."""

from __future__ import annotations

import io
import sys
import time
from collections import Counter

import pytest

from orchestrator.cli.progress import counted, describe, progress_json, progress_of
from orchestrator.execution.progress import State
from orchestrator.tracking import layout
from orchestrator.tracking.read.queries import SweepSummary
from workloads.training.trial_state import Outcome


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


STATE = State(60, 10, 1_000_000, Counter({Outcome.CONVERGED: 3, Outcome.DIVERGED: 1}), 250_000, 50_000.0, 2, 1 << 20, 150_000)


def summary(status: str, told: str) -> SweepSummary:
    return SweepSummary("abc", "x", "1", status, 0.0, None, 60, {}, 10, "r", tags={layout.PROGRESS: told})


def test_how_far_a_sweep_is_can_be_read_from_elsewhere():
    found = progress_of(summary("RUNNING", STATE.encoded(time.time())))
    assert found == STATE
    assert describe(found) == "14/60 trials, 2 logged, 50.0k trial-steps/s, at most 0:12 left, 1 diverged"
    outcomes = {"converged": 3, "exhausted": 0, "diverged": 1, "aborted": 0, "failed": 0, "cancelled": 0}
    assert progress_json(found) == {"trials": 60, "ended": 14, "outcomes": outcomes, "steps_per_second": 50_000.0, "seconds_left": 12.0}
    assert progress_json(None) is None


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("FINISHED", STATE.encoded(time.time())),
        ("RUNNING", STATE.encoded(time.time() - 3600)),
        *(
            ("RUNNING", text)
            for text in ("", "{", "[]", "1", "{}", '{"at": 1}', '{"at": 1, "outcomes": {"won": 1}}', '{"at": 1, "outcomes": {}, "x": 1}')
        ),
    ],
)
def test_what_a_sweep_said_long_ago_or_somebody_else_did_is_not_shown(status, told):
    assert progress_of(summary(status, told)) is None
