"""``python -m tests.chaos --schedules 60``: the long part of the chaos suite, with a line for every schedule."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos.harness import Size, run_schedule, undisturbed
from tests.processes import hear_interrupts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=60)
    parser.add_argument("--first", type=int, default=0, help="seed of the first schedule")
    parser.add_argument("--kills", type=int, default=10, help="disturbances of each")
    parser.add_argument("--seeds", type=int, default=40, help="trials of each of the six cases")
    parser.add_argument("--longer", type=int, default=8, help="how many times as long the long trials are as in the short part")
    chosen = parser.parse_args()
    # Also where this is a job in the background that ignores them.
    hear_interrupts()
    size = Size(chosen.seeds, chosen.longer)
    total: Counter[str] = Counter()
    broken = 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        began = time.monotonic()
        expected = undisturbed(Path(folder, "undisturbed"), size)
        print(
            f"{len(expected[0])} trials; outcomes of the undisturbed sweep: {dict(Counter(expected[0].outcome))}; {time.monotonic() - began:.0f} s",
            flush=True,
        )
        for seed in range(chosen.first, chosen.first + chosen.schedules):
            report = run_schedule(seed, Path(folder, str(seed)), expected, size, chosen.kills)
            total += report.kills
            broken += bool(report.violations)
            state = "; ".join(report.violations) or "as undisturbed"
            print(f"{seed:4d}  {report.kind:22s} {report.seconds:6.0f} s  {dict(report.kills)}: {state}", flush=True)
            for line in report.log[-60:]:
                print(f"      {line}", flush=True)
    print(f"{chosen.schedules} schedules, {total.total()} kills ({dict(total)}), {broken} with violations")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
