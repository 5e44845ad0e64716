"""What safety costs: checkpoints beside none, and a sweep that loses a worker half-way beside one that does not.

``python -m benchmarks.faults``. Checkpoints: the same pack on one core, with and without, in turns; medians. A killed worker: SIGKILL to one
of two when half of the trial-steps are done, default settings, from grid to summary.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psutil

from orchestrator.cli.progress import fraction
from orchestrator.execution.events import Saved
from orchestrator.execution.worker import Worker
from orchestrator.grid import parse_grid
from orchestrator.options import Options
from orchestrator.planning.pack import Crew
from orchestrator.planning.plan import make_plan
from orchestrator.storage.base import open_storage
from orchestrator.storage.folder import Description, SweepFolder
from orchestrator.sweeps.submit import recording_of, submit

GRID = """
name: faults
fixed:
  problem: {{kind: matrix_completion, shape: [{n}, {n}], target: {{rank: 2, frobenius: {n}}}, observed: 0.5}}
  factorization: {{kind: deep_matrix, depth: 3}}
  init: {{kind: gaussian, scale: 1e-2}}
  optimizer: {{kind: {optimizer}, lr: 1e-6}}
  stop: {{steps: {steps}}}
seeds: {seeds}
record: {{points: {points}, measures: [error, nuclear, effective_rank, singular_values]}}
resources: {{engine: {engine}}}
"""
PACKS = {
    "2x2, 2,000 lanes, fused": {"n": 2, "optimizer": "gd", "steps": 600_000, "seeds": 2000, "points": 200, "engine": "fused"},
    "8x8, 200 lanes, adam": {"n": 8, "optimizer": "adam", "steps": 250_000, "seeds": 200, "points": 100, "engine": "fused"},
    "32x32, 64 lanes, batched": {"n": 32, "optimizer": "momentum", "steps": 12_000, "seeds": 64, "points": 100, "engine": "batched"},
    "100x100, 16 lanes, batched": {"n": 100, "optimizer": "adam", "steps": 3_000, "seeds": 16, "points": 50, "engine": "batched"},
}


def checkpoints(repeats: int) -> None:
    print(f"{'pack':28s} {'without':>9s} {'with':>9s} {'ratio':>7s}  checkpoints")
    for name, fields in PACKS.items():
        grid = parse_grid(GRID.format(**fields))
        recording = recording_of(grid)
        (pack,) = make_plan(grid.trials, recording, fields["engine"], [Crew(1)]).packs
        worker = Worker(1, 0.0)
        worker.warm()
        times: dict[bool, list[float]] = {False: [], True: []}
        made = size = 0
        with tempfile.TemporaryDirectory() as root:
            folder = SweepFolder(open_storage(root), "x", "y")
            folder.describe(Description("y", "x", "", "", "", {}), {})
            for _ in range(repeats + 1):
                for kept in (False, True):
                    began = time.perf_counter()
                    events = list(worker.run(pack, recording, {}, folder.keeping("r") if kept else None))
                    times[kept].append(time.perf_counter() - began)
                    if kept:
                        made = sum(isinstance(event, Saved) for event in events)
                        size = max((path.stat().st_size for path in Path(root).rglob("*.safetensors")), default=0)
        # The first of each compiles, and warms caches.
        without, with_ = (statistics.median(times[kept][1:]) for kept in (False, True))
        print(f"{name:28s} {without:7.1f} s {with_:7.1f} s {with_ / without:7.3f}  {made} of {size / 1e6:.1f} MB", flush=True)


class Killer:
    """A reporter that kills a worker when half of the sweep is done."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted

    def note(self, text: str) -> None:
        print(f"    {text}", flush=True)

    def update(self, state) -> None:
        if self.wanted and fraction(state) >= 0.5:
            self.wanted = False
            workers = [
                p for p in psutil.Process().children(recursive=True) if p.status() != "zombie" and "RemoteWorker" in " ".join(p.cmdline())
            ]
            workers[0].kill()


@contextmanager
def inside(folder: str):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def killed(repeats: int, seconds: float) -> None:
    fields = {"n": 8, "optimizer": "gd", "steps": int(9e4 * seconds), "seeds": 48, "points": 100, "engine": "auto"}
    times: dict[bool, list[float]] = {False: [], True: []}
    for _turn in range(repeats):
        for wanted in (False, True):
            with tempfile.TemporaryDirectory() as folder, inside(folder):
                began = time.perf_counter()
                summary = submit(
                    parse_grid(GRID.format(**fields)),
                    Killer(wanted),
                    Options(tracking_uri=f"sqlite:///{folder}/mlflow.db", storage=folder + "/s"),
                )
                times[wanted].append(time.perf_counter() - began)
                assert summary.exhausted == 48, summary
        print(f"  undisturbed {times[False][-1]:.1f} s, a worker killed at 50 % {times[True][-1]:.1f} s", flush=True)
    alone, lost = (statistics.median(times[wanted]) for wanted in (False, True))
    print(f"medians: {alone:.1f} s and {lost:.1f} s, ratio {lost / alone:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120.0, help="about how long the sweep takes that loses a worker")
    parser.add_argument("--only", choices=("checkpoints", "killed"))
    chosen = parser.parse_args()
    if chosen.only != "killed":
        checkpoints(chosen.repeats)
    if chosen.only != "checkpoints":
        killed(chosen.repeats, chosen.seconds)


if __name__ == "__main__":
    main()
