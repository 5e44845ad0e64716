"""A schedule in a process of its own: one that hangs, wherever, is ended with all that it has started, and is a violation.

``python -m tests.chaos.supervised JSON`` is that process; the last line that it writes is its report.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from tests.chaos.arena import KINDS, ROOT, unmount
from tests.chaos.disturbances import stacks
from tests.chaos.schedule import Report, run_schedule
from tests.chaos.sweep import Size
from tests.processes import MARK, end, hear_signals, marked, popen


@dataclass(frozen=True)
class Order:
    """A schedule that is to be run; ``expected`` is a file of the tables of an undisturbed sweep."""

    seed: int
    folder: str
    expected: str
    size: Size
    kills: int

    @property
    def command(self) -> list[str]:
        """The command line of its process."""
        return [sys.executable, "-m", "tests.chaos.supervised", json.dumps(asdict(self))]


def supervised(order: Order, deadline: float, command: Sequence[str] = ()) -> Report:
    """Run a schedule, by its own ``command`` unless another is given, for ``deadline`` seconds at most."""
    mark = f"chaos-{uuid.uuid4().hex}"
    began = time.monotonic()
    environment = {**os.environ, MARK: mark, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+") as out:
        process = popen(command or order.command, cwd=ROOT, env=environment, stdout=out, stderr=out)
        late, why = False, []
        try:
            process.wait(deadline)
        except subprocess.TimeoutExpired:
            late = True
            why = [line for found in _pythons(mark) for line in stacks(found.pid).splitlines()]
        finally:
            end(list(marked(mark)))
            process.wait()
            _clear(Path(order.folder))
        out.seek(0)
        said = out.read().splitlines()
    if process.returncode == 0:
        report = json.loads(said[-1])
        return Report(**{**report, "kills": Counter(report["kills"])})
    wrong = f"not over after {deadline:g} s" if late else f"the schedule's own process has ended with {process.returncode}"
    return Report(order.seed, KINDS[order.seed % len(KINDS)].name, Counter(), time.monotonic() - began, [wrong], [*said, *why])


def _pythons(mark: str) -> list[psutil.Process]:
    """The schedule itself and the drivers: what hangs, or waits for what does."""
    return [process for process in marked(mark) if {"tests.chaos.supervised", "orchestrator.cli.main"} & set(process.cmdline())]


def _clear(folder: Path) -> None:
    """Remove what a schedule that was ended has left on disk."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if (place := Path(line.split()[1])).is_relative_to(folder):
            unmount(place)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Run the schedule that the command line asks for."""
    hear_signals()
    order = Order(**json.loads(sys.argv[1]))
    with Path(order.expected).open("rb") as file:
        # Written by whoever has started us.
        expected = pickle.load(file)
    report = run_schedule(order.seed, Path(order.folder), expected, Size(**order.size), order.kills)
    sys.stdout.write(f"\n{json.dumps(vars(report))}\n")


if __name__ == "__main__":
    main()
