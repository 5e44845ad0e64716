"""``python -m tests.chaos``: the long part of the chaos suite, with a line in a ledger for every schedule.

Schedules are run in portions: none begins later than ``--minutes`` after the first.

Example:
  python -m tests.chaos --first 100 --schedules 6
  python -m tests.chaos --summary --since 1c2d3e4f
"""

from __future__ import annotations

import argparse
import pickle
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests import ledger
from tests.chaos.comparison import undisturbed
from tests.chaos.record import LEDGER, UNDISTURBED, Line, entered, summary
from tests.chaos.supervised import Order, supervised
from tests.chaos.sweep import Size
from tests.processes import hear_signals

DEADLINE = 1200.0
"""Seconds that a schedule may take, where most take two minutes, on a machine that does nothing else."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run schedules as asked. Returns 1 if one has broken something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=60)
    parser.add_argument("--first", type=int, default=0, help="seed of the first schedule")
    parser.add_argument("--kills", type=int, default=10, help="disturbances of each")
    parser.add_argument("--seeds", type=int, default=40, help="trials of each of the five cases, and that fail")
    parser.add_argument("--longer", type=int, default=4, help="how many times as long the long trials are as in the short part")
    parser.add_argument("--minutes", type=float, default=10.0, help="no schedule begins later than this after the first")
    parser.add_argument("--deadline", type=float, default=DEADLINE, help="seconds after which a schedule is ended, and has failed")
    parser.add_argument("--expected", type=Path, help="a file of what the undisturbed sweep gives, which is written if it is not there")
    parser.add_argument("--ledger", type=Path, default=LEDGER)
    parser.add_argument("--summary", action="store_true", help="run nothing, and add up the ledger")
    parser.add_argument("--since", default="", help="with --summary: add up what came after this commit, too")
    chosen = parser.parse_args(arguments)
    if chosen.summary:
        for text in summary(ledger.read(chosen.ledger, Line), ledger.date_of(chosen.since) if chosen.since else ""):
            print(text)
        return 0
    # Also where this is a job in the background that ignores them.
    hear_signals()
    size = Size(chosen.seeds, chosen.longer, drawn=True)
    broken = 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        expected = chosen.expected or Path(folder, "expected")
        if not expected.exists():
            _expect(expected, Path(folder), size)
        for seed in ledger.in_time(range(chosen.first, chosen.first + chosen.schedules), chosen.minutes):
            report = supervised(Order(seed, f"{folder}/{seed}", str(expected), size, chosen.kills), chosen.deadline)
            line = entered(report, chosen.ledger)
            broken += line.verdict != UNDISTURBED
            print(f"{seed:4d}  {line.kind:18s} {line.seconds:4d} s  {dict(line.kills)}: {line.verdict} {line.log}", flush=True)
    return 1 if broken else 0


def _expect(path: Path, folder: Path, size: Size) -> None:
    """Run the sweep undisturbed and keep its tables in a file."""
    began = time.monotonic()
    tables = undisturbed(folder / "undisturbed", size)
    path.write_bytes(pickle.dumps(tables))
    print(f"{len(tables[0])} trials, undisturbed {dict(Counter(tables[0].outcome))} in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
