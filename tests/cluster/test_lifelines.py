"""A head or a raylet that is gone is noticed, and a head is waited for no longer than it takes to start it again."""

from __future__ import annotations

import socket

import pytest

from orchestrator.cluster.lifelines import Lifeline
from orchestrator.cluster.slurm.node import free_port
from orchestrator.errors import RayUnavailable


def listening(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


def test_who_comes_back_in_time_is_there_and_who_does_not_is_given_up():
    clock = [0.0]
    port = free_port()
    with listening(port):
        line = Lifeline("the head", f"127.0.0.1:{port}", 30.0, lambda: clock[0])
        assert line.holds()
    assert line.holds(), "nobody looks at every turn"
    clock[0] = 20.0
    assert not line.holds()
    with listening(port):
        clock[0] = 29.0
        assert line.holds()
    clock[0] = 50.0
    assert not line.holds(), "from when it was last seen"
    clock[0] = 60.0
    with pytest.raises(RayUnavailable, match=f"the head at 127.0.0.1:{port} is gone"):
        line.holds()
