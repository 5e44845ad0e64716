"""What safety costs: a sweep that loses a worker half-way beside one that does not, and packs with checkpoints beside packs without.

    python -m benchmarks.faults killed [--seconds 120] [--repeats 2] [-o killed.json]
    python -m benchmarks.faults checkpoints [--seconds 20] [--repeats 3] [-o checkpoints.json]

*killed*: whole sweeps with default settings, from grid to summary, on an embedded Ray; in every other one a worker gets SIGKILL when half of
the trial-steps are done. *checkpoints*: one pack on one core, as a worker trains it, with checkpoints to a folder as often as a sweep makes
them, and with none. Both take turns in one process; medians. ``--seconds`` is about how long each takes: the number of steps follows from a
rate that is measured first, which compiles what is needed. At the defaults a call takes about nine minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.engines import engine_rate
from benchmarks.report import report
from orchestrator.cli.progress import fraction
from orchestrator.execution.events import Saved
from orchestrator.execution.progress import State
from orchestrator.execution.worker import Worker
from orchestrator.grid import Grid, parse_grid
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
seeds: {lanes}
record: {{points: 100, measures: [error, nuclear, effective_rank, singular_values]}}
resources: {{engine: {engine}}}
"""
SWEEP = {"n": 8, "optimizer": "gd", "lanes": 48, "engine": "fused"}
PACKS = {
    "2x2, 2,000 lanes, fused": {"n": 2, "optimizer": "gd", "lanes": 2000, "engine": "fused"},
    "8x8, 200 lanes, adam": {"n": 8, "optimizer": "adam", "lanes": 200, "engine": "fused"},
    "32x32, 64 lanes, batched": {"n": 32, "optimizer": "momentum", "lanes": 64, "engine": "batched"},
    "100x100, 16 lanes, batched": {"n": 100, "optimizer": "adam", "lanes": 16, "engine": "batched"},
}
"""From small states to large ones: a checkpoint of the last has 16 times three factors, twice over for the optimizer."""


class Killer:
    """A reporter that kills a worker when half of the sweep is done, if it is ``armed``."""

    def __init__(self, armed: bool) -> None:
        self.armed = armed

    def note(self, text: str) -> None:
        print(f"    {text}", file=sys.stderr, flush=True)

    def update(self, state: State) -> None:
        if self.armed and fraction(state) >= 0.5:
            self.armed = False
            below = psutil.Process().children(recursive=True)
            workers = [p for p in below if p.status() != psutil.STATUS_ZOMBIE and "RemoteWorker" in " ".join(p.cmdline())]
            workers[0].kill()


def grid_of(fields: dict[str, Any], seconds: float, cores: int) -> Grid:
    """A grid whose trials take about ``seconds`` on so many cores."""
    (spec, *_) = [trial.spec for trial in parse_grid(GRID.format(**{**fields, "lanes": 1}, steps=1 << 40)).trials]
    rate, _ = engine_rate(spec, min(fields["lanes"], 64), fields["engine"], 0.5)
    return parse_grid(GRID.format(**fields, steps=int(cores * rate * seconds / fields["lanes"])))


def turns(repeats: int, run: Callable[[bool], None]) -> dict[bool, list[float]]:
    """Seconds of ``repeats`` runs without and with, in turns."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for _turn in range(repeats):
        for which in (False, True):
            began = time.perf_counter()
            run(which)
            times[which].append(time.perf_counter() - began)
            print(f"  {'with' if which else 'without'}: {times[which][-1]:.1f} s", file=sys.stderr, flush=True)
    return times


def killed(seconds: float, repeats: int) -> list[dict[str, Any]]:
    """A row of the table: a sweep that nothing happens to, and one that loses a worker."""
    grid = grid_of(SWEEP, seconds, os.cpu_count() or 1)

    def run(lost: bool) -> None:
        with tempfile.TemporaryDirectory() as folder, inside(folder):
            killer = Killer(lost)
            summary = submit(grid, killer, Options(tracking_uri=f"sqlite:///{folder}/mlflow.db", storage=f"{folder}/storage"))
            if killer.armed or summary.exhausted != len(grid.trials):
                raise RuntimeError(f"not the sweep that was to be measured: {summary}")

    return [row("a worker killed at 50 %", turns(repeats, run))]


def checkpoints(seconds: float, repeats: int) -> list[dict[str, Any]]:
    """A row a pack."""
    rows = []
    for name, fields in PACKS.items():
        grid = grid_of(fields, seconds, 1)
        recording = recording_of(grid)
        (pack,) = make_plan(grid.trials, recording, grid.resources.engine, [Crew(1)]).packs
        worker = Worker(1, 0.0)
        worker.warm()
        made: list[Saved] = []
        with tempfile.TemporaryDirectory() as root:
            folder = SweepFolder(open_storage(root), "x", "y")
            folder.describe(Description("y", "x", "", "", "", {}), {})

            def run(kept: bool) -> None:
                events = worker.run(pack, recording, {}, folder.checkpointing("r") if kept else None)  # noqa: B023
                made[:] = [event for event in events if isinstance(event, Saved)]  # noqa: B023

            times = turns(repeats, run)
            size = max(path.stat().st_size for path in Path(root).rglob("*.safetensors"))
        rows.append({**row(name, times), "checkpoints": len(made), "MB each": size / 1e6})
    return rows


def row(name: str, times: dict[bool, list[float]]) -> dict[str, Any]:
    without, having = (statistics.median(times[which]) for which in (False, True))
    return {"what": name, "without, s": without, "with, s": having, "ratio": having / without}


@contextmanager
def inside(folder: str) -> Iterator[None]:
    """In another working directory, where figures and the like would be written."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("killed", "checkpoints"))
    parser.add_argument("--seconds", type=float, help="about how long each sweep or pack takes")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    if args.what == "killed":
        table = killed(args.seconds or 120.0, args.repeats or 2)
    else:
        table = checkpoints(args.seconds or 20.0, args.repeats or 3)
    report(f"faults, {args.what}", table, args.output)


if __name__ == "__main__":
    main()
