"""``python -m tests.repeat --times 10``: the tests, or some of them, again and again in random order, with a line in a ledger for each run.

Runs go on in portions: none begins later than ``--minutes`` after the first. What comes after ``--`` goes to pytest.

Example:
  python -m tests.repeat --times 5 --load
  python -m tests.repeat --times 50 -k test_an_interrupt_keeps_what_has_ended -- -n 0
  python -m tests.repeat --summary
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import ledger
from tests.processes import communicate, popen

ROOT = Path(__file__).parents[1]
LEDGER = ledger.FOLDER / "repeat.jsonl"
DEADLINE = 3600.0
"""Seconds after which a run is ended, whatever it waits for."""


@dataclass(frozen=True)
class Line:
    """A run: when, of which commit (with ``+`` if files had been changed), which tests, how, and what came of it."""

    date: str
    commit: str
    tests: str
    load: bool
    interrupts: str
    seed: int
    seconds: int
    passed: int
    failures: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests as asked. Returns 1 if one has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10, help="how many runs")
    parser.add_argument("--minutes", type=float, default=10.0, help="no run begins later than this after the first")
    parser.add_argument("--load", action="store_true", help="beside two processes that are always busy")
    parser.add_argument("-k", dest="only", default="", help="only these tests, as pytest has it")
    parser.add_argument("--seed", type=int, help="of the first run's order; the next ones count up from it")
    parser.add_argument("--ledger", type=Path, default=LEDGER)
    parser.add_argument("--summary", action="store_true", help="run nothing, and add up the ledger")
    parser.add_argument("options", nargs="*", help="options of pytest's, after --")
    chosen = parser.parse_args(arguments)
    if chosen.summary:
        return summary(chosen.ledger)
    options = [*(["-k", chosen.only] if chosen.only else []), *chosen.options]
    first = random.SystemRandom().randrange(10**6) if chosen.seed is None else chosen.seed
    failed = 0
    for seed in ledger.in_time(range(first, first + chosen.times), chosen.minutes):
        line = run(options, seed, chosen.load)
        ledger.append(chosen.ledger, line)
        failed += bool(line.failures)
        print(f"{line.seconds:5d} s  {line.passed} passed, seed {line.seed}: {'; '.join(line.failures) or 'no failure'}", flush=True)
    return 1 if failed else 0


def run(options: Sequence[str], seed: int, load: bool) -> Line:
    """One run of the tests, in the order that ``seed`` gives."""
    order = ["--random-order-bucket=module", f"--random-order-seed={seed}"]
    with tempfile.TemporaryDirectory(prefix="repeat-") as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", *order, f"--junitxml={report}", *options]
        began = time.monotonic()
        with busy(2 if load else 0):
            process = popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            try:
                out, _ = communicate(process, DEADLINE)
            except AssertionError as error:
                out = str(error)
        passed, failures = counted(report)
    if process.returncode != 0:
        failures += [line for line in out.splitlines() if line.startswith("LEFT ")]
        failures = failures or [f"exit code {process.returncode}: {' '.join(out.split())[-300:]}"]
        sys.stdout.write(out[-20_000:])
    return Line(
        ledger.now(),
        ledger.commit(),
        " ".join(options) or "all",
        load,
        "ignored" if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else "heard",
        seed,
        round(time.monotonic() - began),
        passed,
        failures,
    )


def counted(report: Path) -> tuple[int, list[str]]:
    """How many tests passed by a JUnit report, and the names of those that did not."""
    if not report.exists():
        return 0, []
    passed, failures = 0, []
    # Written by pytest itself.
    for case in ElementTree.parse(report).iter("testcase"):
        wrong = [child for child in case if child.tag in ("failure", "error")]
        if wrong:
            failures.append(f"{case.get('classname')}::{case.get('name')}")
        elif case.find("skipped") is None:
            passed += 1
    return passed, failures


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Processes that are always busy, meanwhile."""
    started = [popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def summary(path: Path) -> int:
    """Print what a ledger adds up to: runs, failures and seconds for each selection of tests and way of running them."""
    groups = defaultdict(list)
    for line in ledger.read(path, Line):
        groups[line.tests, line.load, line.interrupts].append(line)
    for (tests, load, interrupts), lines in groups.items():
        how = ", ".join(["beside two busy processes"] * load + [f"SIGINT {interrupts}"])
        seconds = sorted(line.seconds for line in lines)
        failures = sorted({failure for line in lines for failure in line.failures})
        print(
            f"{tests} ({how}): {len(lines)} runs, {sum(bool(line.failures) for line in lines)} failed, median {seconds[len(seconds) // 2]} s"
        )
        for failure in failures:
            print(f"    {failure}")
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
