"""What the chaos suite does is what it says."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from tests.chaos.arena import KINDS, Arena
from tests.chaos.disturbances import DISTURBANCES
from tests.chaos.sweep import Size
from tests.processes import PATIENCE, eventually, popen

NOW = "import sys, time\nfor _ in sys.stdin: print(time.time(), time.time_ns() // 10**9, time.monotonic(), flush=True)"


@pytest.fixture
def arena(tmp_path: Path, request: pytest.FixtureRequest):
    (kind,) = (one for one in KINDS if one.name == getattr(request, "param", "embedded, SQLite"))
    arena = Arena(tmp_path / "arena", Size(), kind)
    yield arena
    arena.close()


@pytest.mark.parametrize("arena", ["clock"], indirect=True)
def test_a_clock_is_set_while_processes_run_and_no_other_is(arena):
    with popen([sys.executable, "-c", NOW], env=arena.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def wrong_by() -> list[int]:
            process.stdin.write("\n")
            process.stdin.flush()
            own = time.time(), time.time(), time.monotonic()
            return [round((float(text) - mine) / 100) * 100 for text, mine in zip(process.stdout.readline().split(), own, strict=True)]

        assert wrong_by() == [0, 0, 0]
        arena.set_clock(3600.0)
        assert wrong_by() == [3600, 3600, 0]
        arena.set_clock(-172_800.0)
        assert wrong_by() == [-172_800, -172_800, 0]
        process.stdin.close()


def test_a_storage_that_is_gone_comes_back_with_all_that_was_in_it(arena, monkeypatch):
    kept = arena.storage / "x" / "kept"
    kept.parent.mkdir(parents=True)
    kept.write_text("content")
    seen = []
    monkeypatch.setattr(time, "sleep", lambda _: seen.append(arena.storage.is_file()))
    assert DISTURBANCES["storage_gone"].act(arena, Random(0))
    assert seen[0]
    assert kept.read_text() == "content"


@pytest.mark.parametrize("arena", ["separate storage"], indirect=True)
def test_a_storage_that_is_read_only_can_be_written_again(arena, monkeypatch):
    if not DISTURBANCES["read_only"].possible(arena):
        pytest.skip("nothing can be mounted here")
    path, seen = arena.storage / "x", []

    def written() -> bool:
        try:
            path.write_text("content")
        except OSError:
            return False
        return True

    monkeypatch.setattr(time, "sleep", lambda _: seen.append(written()))
    assert DISTURBANCES["read_only"].act(arena, Random(0))
    assert seen[0] is False
    assert written()


def test_who_sleeps_wakes_up_again(arena, monkeypatch):
    process = popen([sys.executable, "-c", "import time; time.sleep(600)", "RemoteWorker"], env=arena.environment)
    eventually(arena.workers)
    slept, wait = [], time.sleep

    def sleep(_):
        # A process on another core takes a moment to hear of it.
        until = time.monotonic() + PATIENCE
        while arena.workers()[0].status() != "stopped" and time.monotonic() < until:
            wait(0.01)
        slept.append(arena.workers()[0].status())

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", sleep)
        assert any(DISTURBANCES["asleep"].act(arena, Random(seed)) for seed in range(20))
    assert slept[-1] == "stopped"
    eventually(lambda: arena.workers()[0].status() != "stopped")
    process.kill()
    process.wait()


def test_each_is_possible_somewhere_and_says_what_it_does(tmp_path):
    arenas = [Arena(tmp_path / kind.name, Size(), kind) for kind in KINDS if not kind.server and not kind.cluster]
    possible = {name for arena in arenas for name, one in DISTURBANCES.items() if one.possible(arena)}
    for arena in arenas:
        arena.close()
    assert {"worker", "driver", "interrupt", "ray", "storage_gone", "asleep", "clock"} <= possible
    assert all(one.act.__doc__ for one in DISTURBANCES.values())
