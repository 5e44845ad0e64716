"""Starting an embedded Ray on a machine that has no time for it."""

from __future__ import annotations

import os
import signal
import sys

import pytest
import ray

from orchestrator.cluster import connection
from orchestrator.cluster.connection import Cluster
from orchestrator.errors import RayUnavailable
from tests.processes import popen

SLOW = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


@pytest.fixture
def starts(monkeypatch):
    """What starting Ray comes to, one after another; nothing is started."""
    outcomes: list[Exception | None] = []

    def init(**options):
        if (error := outcomes.pop(0)) is not None:
            raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    return outcomes


def test_a_start_that_takes_too_long_is_tried_again(starts):
    starts += [Exception(SLOW), Exception(SLOW), None]
    with Cluster.connect("local") as cluster:
        assert cluster.cpus == 2
    assert starts == []


def test_what_a_start_that_takes_too_long_has_left_is_ended(starts, monkeypatch):
    """It would take its part of a machine that is too busy already."""
    left = []

    def init(**options):
        if not left:
            left.append(popen([sys.executable, "-c", "import time; time.sleep(600)", f"--session-dir={options['_temp_dir']}/session"]))
            left.append(popen([sys.executable, "-c", "import time; time.sleep(600)", "somebody else's"]))
            raise RuntimeError(SLOW)

    monkeypatch.setattr(ray, "init", init)
    with Cluster.connect("local"):
        ended, other = left
        try:
            # Raises if it is still there.
            ended.wait(10)
            assert other.poll() is None
        finally:
            other.kill()
            other.wait(10)


def test_an_embedded_ray_lets_nobody_in_without_a_token(starts, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_AUTH_MODE")
    starts.append(None)
    with Cluster.connect("local"):
        assert os.environ["RAY_AUTH_MODE"] == "token"


def test_but_not_for_ever_and_then_it_is_one_line(starts):
    starts += [Exception(SLOW)] * connection.STARTS
    with pytest.raises(RayUnavailable, match="did not start in 4 times half a minute") as caught:
        Cluster.connect("local")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", [ValueError, Exception, MemoryError, ray.exceptions.RaySystemError])
def test_what_else_is_wrong_is_said_at_once_in_one_line(starts, kind):
    starts += [kind("no such option\nand all that follows from it"), None]
    with pytest.raises(RayUnavailable, match="no such option") as caught:
        Cluster.connect("local")
    assert len(str(caught.value).splitlines()) == 1
    assert starts == [None]


def test_a_signal_while_ray_ends_is_heard_when_it_has(starts, monkeypatch):
    ended = []

    def shutdown():
        os.kill(os.getpid(), signal.SIGTERM)
        ended.append(True)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    starts.append(None)
    monkeypatch.setattr(ray, "shutdown", shutdown)
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        cluster = Cluster.connect("local")
        with pytest.raises(KeyboardInterrupt):
            cluster.__exit__()
        assert ended == [True]
        assert signal.getsignal(signal.SIGTERM) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
