"""Sweeps under fire: a seeded schedule of disturbances of a real sweep, and the comparison with an undisturbed one."""

from __future__ import annotations

import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from orchestrator.cli.options import INTERRUPTED
from orchestrator.errors import UnavailableError
from tests.chaos.arena import KINDS, Arena
from tests.chaos.comparison import Tables, compared, remains
from tests.chaos.disturbances import disturb, kill_driver
from tests.chaos.sweep import Size
from tests.processes import eventually

ENDED = (0, 1)
"""Exit codes of a sweep that says it is complete: its failing trials make it 1."""
STOPPED = (UnavailableError.exit_code, INTERRUPTED, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
"""Those of one that is to be gone on with."""
RAY_ENDED = "Failed to register worker to Raylet"
"""What Ray says where it ends the driver itself, with exit code 1: it was killed in the moment in which the driver joined it."""
STARTED = "started: orchestrate"
"""What the lines begin with that say that a driver was started."""
STOPS = 5
"""How often a sweep that is not disturbed any more may stop short: it may have been hit just before."""


@dataclass
class Report:
    """What a schedule did, and what it found wrong."""

    seed: int
    kind: str
    kills: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


def run_schedule(seed: int, folder: Path, expected: Tables, size: Size, kills: int, database: Path | None = None) -> Report:
    """Disturb one sweep ``kills`` times and compare it with an undisturbed one. MLflow begins with a copy of ``database``, if there is one."""
    kind = KINDS[seed % len(KINDS)]
    report = Report(seed, kind.name)
    began = time.monotonic()
    arena = Arena(folder, size, kind, database)
    try:
        schedule = Schedule(arena, Random(seed), expected, report)
        try:
            schedule.disturb(kills)
            schedule.finish()
            if not report.violations:
                report.violations += [*compared(arena, expected), *remains(arena)]
        except Exception as error:
            report.violations.append(f"{type(error).__name__}: {error}".partition("\n")[0])
            report.log += traceback.format_exc().splitlines()
        report.log += arena.log.splitlines() if report.violations else []
    finally:
        arena.close()
    report.seconds = time.monotonic() - began
    return report


@dataclass
class Schedule:
    """A sweep that is disturbed again and again, and gone on with; one that ends before its time is run afresh."""

    arena: Arena
    rng: Random
    expected: Tables
    report: Report

    def disturb(self, kills: int) -> None:
        """Disturb until that has hit so often, or something is wrong."""
        deadline = time.monotonic() + 15 * kills + 60
        self._start("submit")
        while self.report.kills.total() < kills and time.monotonic() < deadline:
            if self._has_ended():
                # What it says must be so, at any time.
                self.report.violations += compared(self.arena, self.expected)
                if self.report.violations:
                    return
                self._start("submit", "--fresh")
            elif self._has_stopped():
                if self.report.violations:
                    return
                self._start(self._how_to_go_on())
            if name := disturb(self.arena, self.rng):
                self.report.kills[name] += 1
                self.note(name)
            time.sleep(self.rng.uniform(0.3, 2))

    def finish(self) -> None:
        """Let the sweep come to its end, which may be disturbed once more: when it draws."""
        spared = not self.arena.size.drawn or self.rng.random() < 0.5
        stops = 0
        while not self._has_ended() and not self.report.violations:
            if self._has_stopped():
                stops += 1
                if stops > STOPS:
                    self.report.violations.append(f"the sweep has stopped short {stops} times, though nobody disturbs it")
                    return
                self._start("submit")
            elif not spared and "drawing" in self._said():
                spared = True
                time.sleep(self.rng.uniform(0, 1.5))
                self.report.kills["drawing"] += kill_driver(self.arena, signal.SIGKILL)
            time.sleep(0.1)

    def note(self, text: str) -> None:
        """Say among the driver's lines what was done to it."""
        with (self.arena.folder / "driver.log").open("a") as log:
            log.write(f"----- {text}\n")

    def _start(self, command: str, *options: str) -> None:
        if self.arena.server is not None:
            self.arena.server.wait()
        self.note(" ".join([STARTED, command, *options]))
        self.arena.start(command, *options)
        self._await_phase()

    def _await_phase(self) -> None:
        """Wait until there is something to be lost: a process that starts, workers that train, or checkpoints. Whatever comes first ends it."""
        arena = self.arena
        reached: Callable[[], Any] = self.rng.choices([lambda: True, arena.workers, arena.checkpoints], [1, 2, 3])[0]
        assert arena.driver is not None
        driver = arena.driver
        eventually(lambda: driver.poll() is not None or reached(), "neither workers nor checkpoints")
        time.sleep(self.rng.uniform(0, 2))

    def _has_ended(self) -> bool:
        """Whether the sweep says that it is complete. A driver that is gone without a word has not ended like that."""
        assert self.arena.driver is not None
        said = self._said()
        return self.arena.driver.poll() in ENDED and ("look at them: " in said or "is complete" in said)

    def _has_stopped(self) -> bool:
        """Whether the driver is gone, and may be."""
        assert self.arena.driver is not None
        code = self.arena.driver.poll()
        if code is not None and code not in STOPPED and RAY_ENDED not in self._said():
            self.report.violations.append(f"the driver has ended with exit code {code}")
        return code is not None

    def _how_to_go_on(self) -> str:
        """Submitting again always works; resuming needs a sweep that MLflow knows."""
        known = " to run in" in self.arena.log and not self.arena.kind.restored
        return "resume" if known and self.rng.random() < 0.5 else "submit"

    def _said(self) -> str:
        """What the driver has said since it was last started."""
        return self.arena.log.rpartition(STARTED)[2]
