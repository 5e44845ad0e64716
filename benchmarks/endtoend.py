"""Whole grids, from the command to finished MLflow runs, against a plain loop and Ray Tune.

    python -m benchmarks.endtoend [--grids figure1.yaml ...] [-o endtoend.json]

Each grid is submitted as a user would submit it, into a new SQLite store; the first one also with empty kernel and probe caches
(*cold*). The rivals would take hours, so they are extrapolated from rates measured in the same run: the plain loop takes the trials one
after another, each of its steps at the rate of an eager autograd loop on a trial of its kind (`benchmarks.engines.plain_rate`), and
records nothing; Ray Tune spreads such loops over the cores and pays what an empty trial costs it besides. *idle* is the share of the
time between the first pack's start and the last one's end that workers had nothing to do.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.command import Run, store, submit, tune_seconds
from benchmarks.engines import plain_rate
from benchmarks.report import report
from orchestrator.grid import load_grid

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs"
GRIDS = [CONFIGS / "figure1.yaml", CONFIGS / "figure2-order3.yaml", CONFIGS / "figure2-order4.yaml"]
GRIDS += [CONFIGS / "depth-vs-init.yaml", HERE / "unequal.yaml"]
TUNE_TRIALS = 24


def plain_seconds(grid: Path, steps: dict[str, int]) -> float:
    """Seconds that the plain loop would take for the ``steps`` of the trials of ``grid``, by trial id."""
    groups: dict[Any, list[Any]] = defaultdict(list)
    for trial in load_grid(grid).trials:
        groups[trial.spec.lane_key].append(trial)
    seconds = 0.0
    for group in groups.values():
        # How many entries are observed hardly matters to it: the middle one stands for all.
        rate = plain_rate(group[len(group) // 2].spec)
        seconds += sum(steps[trial.trial_id] for trial in group) / rate
    return seconds


def row(name: str, grid: Path, folder: Path, run: Run, empty_trial: float) -> dict[str, Any]:
    """One line of the table."""
    from mlflow import MlflowClient

    import orchestrator

    runs = orchestrator.load_runs("latest", tracking_uri=store(folder))
    steps = dict(zip(runs["trial_id"], map(int, runs["steps"]), strict=True))
    plain = plain_seconds(grid, steps)
    tune = len(steps) * empty_trial + plain / (os.cpu_count() or 1)
    parent = MlflowClient(store(folder)).get_run(run.summary["parent_run_id"])
    return {
        "grid": name,
        "trials": len(steps),
        "trial-steps": sum(steps.values()),
        "seconds": run.seconds,
        "idle": parent.data.metrics["sweep/idle_share"],
        "plain loop, s": plain,
        "plain/ours": plain / run.seconds,
        "Ray Tune, s": tune,
        "Ray Tune/ours": tune / run.seconds,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grids", nargs="*", type=Path, default=GRIDS)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory() as text:
        base = Path(text)
        # Trials so short that what is left is their cost to Ray Tune; what it costs to start is not counted.
        few, many = (tune_seconds(n, 1, base) for n in (2, TUNE_TRIALS))
        empty_trial = (many - few) / (TUNE_TRIALS - 2)
        attempts = [(f"{args.grids[0].stem}, cold", args.grids[0], True), *((grid.stem, grid, False) for grid in args.grids)]
        for number, (name, grid, cold) in enumerate(attempts):
            folder = base / str(number)
            folder.mkdir()
            caches = {"WARP_CACHE_PATH": f"{folder}/warp", "XDG_CACHE_HOME": f"{folder}/cache"} if cold else {}
            run = submit(grid.resolve(), folder, **caches)
            print(f"{name}: {run.seconds:.1f} s", file=sys.stderr, flush=True)
            table.append(row(name, grid.resolve(), folder, run, empty_trial))
    report("endtoend", table, args.output)


if __name__ == "__main__":
    main()
