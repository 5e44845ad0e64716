"""Sweeps of many tiny trials: what the driver and its MLflow writer cost a trial, in seconds and memory.

    python -m benchmarks.scale [--trials 1000 5000 20000 50000] [-o scale.json]

Trials are 2x2 completions of 100 steps, with 3 measures at about 10 points each, so that hardly anything is left but bookkeeping.
``plan`` is `orchestrate plan` of the same grid, whole command. *ms* and *KB a further trial* are differences to the row before, the
first one's to a sweep of ten trials: they stay the same where the cost is linear.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.command import Run, submit
from benchmarks.report import report

GRID = """
name: scale
fixed:
  problem: {kind: matrix_completion, shape: [2, 2], entries: [[0, 1, 1.0], [1, 0, 1.0], [1, 1, 0.0]]}
  factorization: {kind: deep_matrix, depth: 2}
  init: {kind: gaussian, product_scale: 1e-3}
  optimizer: {kind: gd, lr: 0.01}
  stop: {steps: 100}
seeds: %d
record: {points: 5, measures: [effective_rank, entry_0_0]}
"""
LEAST = 10


def attempt(trials: int, folder: Path) -> tuple[Run, float]:
    """Submit and plan a grid of ``trials``."""
    folder.mkdir()
    grid = folder / "grid.yaml"
    grid.write_text(GRID % trials)
    run = submit(grid, folder)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "orchestrator.cli.main", "plan", str(grid)], check=True, capture_output=True)
    return run, time.perf_counter() - began


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", nargs="*", type=int, default=[1000, 5000, 20_000, 50_000])
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    table: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as text:
        starts = [attempt(LEAST, Path(text, f"least-{n}"))[0] for n in range(3)]
        before, last = LEAST, sorted(starts, key=lambda run: run.seconds)[1]
        for trials in args.trials:
            run, plan = attempt(trials, Path(text, str(trials)))
            more = trials - before
            table.append(
                {
                    "trials": trials,
                    "seconds": run.seconds,
                    "ms a further trial": 1e3 * (run.seconds - last.seconds) / more,
                    "driver, MB": run.peak_bytes / 1e6,
                    "KB a further trial": (run.peak_bytes - last.peak_bytes) / 1e3 / more,
                    "plan, s": plan,
                }
            )
            before, last = trials, run
            print(f"{trials} trials: {run.seconds:.1f} s, {run.peak_bytes / 1e6:.0f} MB", file=sys.stderr, flush=True)
    report("scale", table, args.output)


if __name__ == "__main__":
    main()
