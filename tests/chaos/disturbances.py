"""What is done to a sweep: each a function of the arena and of a seeded source of choices that returns whether it has hit anything."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil

from orchestrator.cli.options import INTERRUPTED
from tests.chaos.arena import Arena
from tests.chaos.proxy import TROUBLES
from tests.processes import PATIENCE, eventually

Act = Callable[[Arena, Random], bool]
CLOCKS = (-172_800.0, -3600.0, -7.0, 0.0, 40.0, 3600.0, 2_592_000.0)
"""By how many seconds a clock is wrong."""
EXCHANGE = 2
"""Of renameat2: both paths change places."""
HERE = -100
"""Of the same: paths are relative to the working directory."""


@dataclass(frozen=True)
class Disturbance:
    """Something that can be done: how often beside the others, and where at all."""

    weight: float
    possible: Callable[[Arena], bool]
    act: Act


DISTURBANCES: dict[str, Disturbance] = {}


def disturbance(weight: float, possible: Callable[[Arena], bool] = lambda _: True) -> Callable[[Act], Act]:
    """Enter a function among the `DISTURBANCES` under its name."""

    def enter(act: Act) -> Act:
        DISTURBANCES[act.__name__] = Disturbance(weight, possible, act)
        return act

    return enter


def disturb(arena: Arena, rng: Random) -> str:
    """Do one of the things that are possible here. Returns its name; empty if it has hit nothing."""
    possible = {name: one for name, one in DISTURBANCES.items() if one.possible(arena)}
    name = rng.choices(list(possible), [one.weight for one in possible.values()])[0]
    return name if possible[name].act(arena, rng) else ""


@disturbance(5)
def worker(arena: Arena, rng: Random) -> bool:
    """SIGKILL to a worker."""
    return _killed(arena.workers(), rng)


@disturbance(2)
def driver(arena: Arena, _: Random) -> bool:
    """SIGKILL to the driver."""
    return kill_driver(arena, signal.SIGKILL)


@disturbance(1)
def interrupt(arena: Arena, rng: Random) -> bool:
    """Ctrl-C, or what `kill` sends, to the driver."""
    return kill_driver(arena, rng.choice([signal.SIGINT, signal.SIGTERM]))


@disturbance(1, lambda arena: not arena.kind.cluster)
def ray(arena: Arena, rng: Random) -> bool:
    """SIGKILL to what an embedded Ray rests on."""
    return _killed(arena.processes(rng.choice(["/raylet/raylet ", "/gcs/gcs_server "])), rng)


@disturbance(2, lambda arena: arena.server is not None)
def server(arena: Arena, rng: Random) -> bool:
    """SIGKILL to the MLflow server, which is started again within seconds."""
    assert arena.server is not None
    arena.server.kill()
    time.sleep(rng.uniform(0, 6))
    arena.server.start()
    return True


@disturbance(2, lambda arena: arena.cluster is not None)
def node(arena: Arena, rng: Random) -> bool:
    """A node of the cluster that vanishes, and another one that joins."""
    others = list(arena.cluster.worker_nodes)
    if not others:
        return False
    arena.cluster.remove_node(rng.choice(others), allow_graceful=False)
    arena.add_node()
    return True


@disturbance(2, lambda arena: arena.disk in arena.mounts)
def full_disk(arena: Arena, rng: Random) -> bool:
    """A disk of everything that is full for seconds."""
    filler = arena.disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    time.sleep(rng.uniform(0.5, 5))
    filler.unlink()
    return True


@disturbance(3, lambda arena: arena.storage in arena.mounts)
def read_only(arena: Arena, rng: Random) -> bool:
    """A storage that can be read and not be written for seconds."""

    def remounted(how: str) -> bool:
        command = ["mount", "-o", f"remount,{how}", str(arena.storage)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    # Refused as long as a file is being written.
    if not any(remounted("ro") for _ in range(50)):
        return False
    time.sleep(rng.uniform(0.5, 8))
    eventually(lambda: remounted("rw"), "the storage cannot be mounted again")
    return True


@disturbance(1, lambda arena: arena.storage not in arena.mounts)
def storage_gone(arena: Arena, rng: Random) -> bool:
    """A storage in whose place there is something else for seconds."""
    stand_in = arena.disk / "stand-in"
    stand_in.touch()
    if not _exchanged(stand_in, arena.storage):
        return False
    time.sleep(rng.uniform(0.5, 5))
    eventually(lambda: _exchanged(stand_in, arena.storage), "the storage cannot be put back")
    return True


@disturbance(1.5)
def asleep(arena: Arena, rng: Random) -> bool:
    """SIGSTOP to the driver, a worker, a raylet or all there is, as when a laptop sleeps; SIGCONT within a minute."""
    who = rng.choice(["orchestrator.cli.main", "RemoteWorker", "/raylet/raylet ", ""])
    there = arena.processes(who)
    if not there:
        return False
    stopped = there if not who else [rng.choice(there)]
    _signal(stopped, signal.SIGSTOP)
    try:
        time.sleep(rng.choice([rng.uniform(0.5, 10), rng.uniform(0.5, 10), rng.uniform(10, 60)]))
    finally:
        _signal(stopped, signal.SIGCONT)
    return True


@disturbance(4, lambda arena: arena.kind.clock)
def clock(arena: Arena, rng: Random) -> bool:
    """A clock that jumps, by seconds or days, ahead or back; it stays wrong."""
    arena.set_clock(rng.choice(CLOCKS))
    return True


@disturbance(4, lambda arena: arena.kind.proxy)
def trouble(arena: Arena, rng: Random) -> bool:
    """An MLflow that answers with errors, half, or not at all for seconds."""
    assert arena.server is not None
    assert arena.server.proxy is not None
    met = arena.server.proxy.met
    with arena.server.proxy.in_trouble(rng.choice(TROUBLES)):
        time.sleep(rng.uniform(1, 15))
    return arena.server.proxy.met > met


@disturbance(5, lambda arena: arena.kind.restored)
def restored(arena: Arena, rng: Random) -> bool:
    """An MLflow server that comes back with a database as it was some time ago, or with an empty one."""
    assert arena.server is not None
    # There has to be a copy first: the next time it is what comes back.
    if arena.server.keep():
        return False
    arena.server.kill()
    # What has ended before is complete, and cannot know what becomes of it.
    hits = arena.server.writes_a_sweep()
    if hits:
        arena.server.put_back(empty=rng.random() < 1 / 3)
    arena.server.start()
    # Killed again while it makes its tables it would never start.
    arena.server.wait()
    return hits


def kill_driver(arena: Arena, number: signal.Signals) -> bool:
    """Whether the driver has died of the signal: one that it came to its end before, or did not hear, is no kill."""
    assert arena.driver is not None
    if arena.driver.poll() is not None:
        return False
    arena.driver.send_signal(number)
    try:
        return arena.driver.wait(PATIENCE) in (-number, INTERRUPTED)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"the driver goes on after {number.name}:\n{stacks(arena.driver.pid)}") from None


def stacks(number: int) -> str:
    """Where the threads of a process are."""
    # It comes with `ray[default]`.
    done = subprocess.run(["py-spy", "dump", "--pid", str(number)], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _killed(processes: Sequence[psutil.Process], rng: Random) -> bool:
    if not processes:
        return False
    try:
        rng.choice(processes).kill()
    except psutil.Error:
        return False
    return True


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two paths change places at once: nobody can make the one again while the other is on its way."""
    libc = ctypes.CDLL(None)
    return libc.renameat2(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE) == 0
