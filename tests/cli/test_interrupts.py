"""Signals while a sweep runs: the first is a wish, the second an end, and one that was ignored from the start is nothing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from orchestrator.cli.options import INTERRUPTED
from orchestrator.grid import parse_grid
from orchestrator.options import Options
from orchestrator.sweeps import hire as crews
from orchestrator.sweeps.signals import SIGNALS, stoppable
from orchestrator.sweeps.submit import recording_of
from tests.cli.commands import GRID
from tests.forked import Forked
from tests.processes import PATIENCE, communicate, eventually, popen


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


class Joined:
    """A cluster that is joined while a signal comes, of which it makes no use."""

    def __init__(self, steps):
        self.steps = steps

    def connect(self, address):  # noqa: ARG002
        os.kill(os.getpid(), signal.SIGINT)
        self.steps.append("joined")
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.steps.append("left")


@pytest.mark.parametrize("address", ["local", "127.0.0.1:6379"])
def test_a_signal_while_a_cluster_is_joined_waits_until_it_is_and_then_leaves_it(monkeypatch, tmp_path, template, address):
    shutil.copy(template, tmp_path)
    monkeypatch.setattr(crews, "Cluster", Joined(steps := []))
    monkeypatch.setattr(crews, "check_reachable", lambda _: None)
    options = Options(address, f"sqlite:///{tmp_path}/mlflow.db")
    grid = parse_grid(GRID)
    with stoppable() as stop, pytest.raises(KeyboardInterrupt), crews.connected(grid, recording_of(grid), options, None, stop):
        pytest.fail("the signal was not heard")
    assert steps == ["joined", "left"]


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
    assert errors.strip() == "interrupted: the same command again goes on"
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


WAITING = """
import socket
from concurrent.futures import ThreadPoolExecutor
import click
from orchestrator.cli.main import leave, run_command
from orchestrator.deadline import within

def read():
    # As MLflow reads artifacts: in the threads of a pool.
    with ThreadPoolExecutor(1) as pool:
        print("waiting", flush=True)
        pool.submit(silent.accept()[0].recv, 1).result()

@click.command()
def wait():
    asking = socket.create_connection(silent.getsockname())
    within({seconds}, read)

silent = socket.create_server(("127.0.0.1", 0))
leave(run_command(wait))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_that_waits_for_a_server_at_once(number):
    process = popen([sys.executable, "-c", WAITING.format(seconds=3600)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    _, errors = communicate(process)
    assert process.returncode == INTERRUPTED
    assert "Traceback" not in errors


def test_a_signal_ends_a_sweep_that_waits_for_the_head_of_a_cluster(tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        sweep = Forked(["submit", "grid.yaml", "--address", address], cwd=tmp_path, env=os.environ)
        mute.settimeout(PATIENCE)
        # The first only looks whether somebody listens.
        asked = [mute.accept()[0] for _ in range(2)]
        assert asked[1].recv(1)
        sweep.terminate()
        _, errors = communicate(sweep)
    assert sweep.returncode == INTERRUPTED, errors
