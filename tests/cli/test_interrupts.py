"""Signals while a sweep runs: the first is a wish, the second an end, and one that was ignored from the start is nothing."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator

import psutil
import pytest

from orchestrator.cli.interrupts import SIGNALS, stoppable
from orchestrator.cli.options import INTERRUPTED
from tests.forked import Forked
from tests.processes import communicate, eventually

GRID = """
name: interrupted
fixed:
  problem: {kind: matrix_completion, shape: [3, 3], target: {rank: 1}, observed: 5}
  factorization: {kind: deep_matrix, depth: 2}
  init: {kind: gaussian, scale: 0.1}
  optimizer: {kind: gd, lr: 0.1}
  stop: {steps: 20}
"""


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


@pytest.mark.parametrize("number", SIGNALS)
def test_while_others_import_the_first_waits_and_the_second_does_not(number):
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    steps = []

    def start(signals, check):
        with stoppable() as stop, stop.deferring():
            for _ in range(signals):
                os.kill(os.getpid(), number)
                steps.append("signal")
            if check:
                stop.check()
            steps.append("end")

    start(0, check=True)
    for signals, check, seen in ((1, False, ["signal", "end"]), (1, True, ["signal"]), (2, False, ["signal"])):
        steps.clear()
        with pytest.raises(KeyboardInterrupt):
            start(signals, check)
        assert steps == seen


@pytest.mark.ray
def test_a_signal_while_ray_starts_is_an_interrupt_like_others(tmp_path, template):
    shutil.copy(template, tmp_path)
    (tmp_path / "grid.yaml").write_text(GRID)
    sweep = Forked(["submit", "grid.yaml"], cwd=tmp_path, env=os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")})

    def starting():
        assert sweep.poll() is None
        return any("gcs_server" in " ".join(child.cmdline()) for child in psutil.Process(sweep.pid).children())

    eventually(starting)
    sweep.terminate()
    out, errors = communicate(sweep)
    assert (sweep.returncode, out) == (INTERRUPTED, "")
    assert "submit the same grid again" in errors
    assert "Traceback" not in errors


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
