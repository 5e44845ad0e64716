"""The local cluster that `orchestrate up` keeps: whether there is one, its beginning and its end. Without Ray, which takes a second."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator import liveness
from orchestrator.cluster.build import build
from orchestrator.errors import RayUnavailable, UsageError, one_line
from orchestrator.files import make_folder, read_file, state_folder, write_file
from workloads.amounts import amount

START_SECONDS = 150.0
"""How long a cluster may take to be up."""
END_SECONDS = 60.0
"""How long it may take to be gone; then it is killed."""
SETTLE_SECONDS = 2.0
LARGEST = 1 << 16


@dataclass(frozen=True)
class Kept:
    """A local cluster: its ``address``, the ``process`` that keeps it, and how long it is kept.

    ``sweeps`` is how many use it, ``workers`` how many are warm for them; ``ends`` is when it ends if no sweep comes, in seconds since
    the epoch. At the socket ``commands`` processes are forked that have their imports done.
    """

    address: str
    process: str
    machine: str
    build: str
    cpus: float
    gpus: float
    workers: int
    sweeps: int
    ends: float
    commands: str = ""

    def __str__(self) -> str:
        gpus = f", {amount(self.gpus, 'GPU')}" if self.gpus else ""
        left = max(0.0, self.ends - time.time()) / 60
        until = f"{amount(self.sweeps, 'sweep')} on it" if self.sweeps else f"ends in {left:.0f} min if no sweep comes"
        return f"{self.address}, {amount(self.cpus, 'core')}{gpus}, {amount(self.workers, 'worker')} warm; {until}"

    @property
    def fits(self) -> bool:
        """Return whether it runs this program, unchanged."""
        return self.build == build()


def record() -> Path:
    """Return the file that says which cluster is kept."""
    return state_folder() / "cluster.json"


def log() -> Path:
    """Return the file that its processes write to."""
    return state_folder() / "cluster.log"


def kept() -> Kept | None:
    """Return the cluster that this user keeps on this machine; ``None`` if there is none."""
    try:
        found = Kept(**json.loads(read_file(record(), LARGEST)))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.machine == liveness.machine() and liveness.is_there(found.process) else None


def address_of(address: str | None) -> str:
    """Return where a sweep runs that is told ``address``: there, else at ``RAY_ADDRESS``, else on the cluster that is kept if it has this
    program's code, else on one of its own, ``local``.
    """
    if chosen := address or os.environ.get("RAY_ADDRESS"):
        return chosen
    there = kept()
    return there.address if there is not None and there.fits else "local"


def is_here(address: str) -> bool:
    """Return whether ``address`` is that of a cluster of this machine alone: a sweep's own, or the one that is kept."""
    there = kept()
    return address == "local" or (there is not None and there.address == address)


def save(cluster: Kept) -> None:
    """Say which cluster is kept. Raises `StorageUnavailable` if that cannot be written."""
    write_file(record(), json.dumps(asdict(cluster)).encode())


def forget() -> None:
    """Say that none is kept."""
    with suppress(OSError):
        record().unlink(missing_ok=True)


def up(workers: int | None, idle_seconds: float, beside: Sequence[str] = ()) -> Kept:
    """Start a local cluster with so many warm ``workers``, by default as many as there is room for, and return it once it is up.

    ``beside`` is a command that serves at a socket, ``{}`` in it, for as long as the cluster is there. It ends after ``idle_seconds``
    without a sweep. Raises `UsageError` if one is there, `RayUnavailable` if it does not come up.
    """
    from orchestrator.tracking.locks import machine_lock

    # Of two at once the second waits for the first: there is one record of what is kept.
    with machine_lock("cluster"):
        if (there := kept()) is not None:
            raise UsageError(f"a local cluster is up at {there.address}: `orchestrate down` ends it")
        return _started(workers, idle_seconds, beside)


def _started(workers: int | None, idle_seconds: float, beside: Sequence[str]) -> Kept:
    make_folder(state_folder())
    command = [
        sys.executable,
        "-m",
        "orchestrator.cluster.keeper",
        json.dumps({"workers": workers, "idle_seconds": idle_seconds, "beside": [*beside]}),
    ]
    with log().open("wb") as out:
        # In a session of its own: it outlives the terminal, and hears none of its signals.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    until = time.monotonic() + START_SECONDS
    try:
        while process.poll() is None and time.monotonic() < until:
            there = kept()
            if there is not None and there.process.split()[0] == str(process.pid):
                return there
            time.sleep(0.05)
    except BaseException:
        process.terminate()
        raise
    if process.poll() is None:
        process.terminate()
        raise RayUnavailable(f"the local cluster is not up after {START_SECONDS:g} s: is the machine too busy? See {log()}")
    said = log().read_text(errors="replace").strip().splitlines()
    raise RayUnavailable(f"the local cluster does not come up: {one_line(said[-1]) if said else f'exit code {process.returncode}'}")


def down(*, now: bool = False) -> Kept | None:
    """End the cluster that is kept, and return it; ``None`` if there is none.

    Raises `UsageError` if sweeps are on it, unless it is to end ``now``, `RayUnavailable` if it does not end.
    """
    until = time.monotonic() + SETTLE_SECONDS
    while (there := kept()) is not None and there.sweeps and not now and time.monotonic() < until:
        # Of one that has just ended it may not have heard.
        time.sleep(0.1)
    if there is None:
        return None
    if there.sweeps and not now:
        sweeps = "a sweep is" if there.sweeps == 1 else f"{amount(there.sweeps, 'sweep')} are"
        raise UsageError(f"{sweeps} on the local cluster: wait, or cancel them; --now ends it all the same, and `resume` goes on")
    pid = int(there.process.split()[0])
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        until = time.monotonic() + END_SECONDS
        while time.monotonic() < until:
            if not liveness.is_there(there.process):
                forget()
                return there
            time.sleep(0.05)
    raise RayUnavailable(f"process {pid}, which keeps the local cluster, does not end")
