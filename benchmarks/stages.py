"""What a trial costs from grid to MLflow, stage by stage, on one core, nothing beside anything else.

    python -m benchmarks.stages [--trials 10000] [-o stages.json]

Two grids: a phase diagram (8x8 matrices, a truth each, 12 points of 3 measures), of which a sample become runs of MLflow, and one that records much
(2x2, 2,000 steps, 12 measures), of which all do. In a sweep training and measures are done by workers, and what comes after the spool by a writer
beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.report import report
from benchmarks.throughput import GRID as DENSE

PHASES = """
name: phases
fixed:
  problem: {kind: matrix_completion, shape: [8, 8], target: {frobenius: 8}}
  factorization: {kind: deep_matrix}
  init: {kind: gaussian}
  optimizer: {kind: gd, lr: 0.02}
  stop: {loss: 1e-4, steps: 3000}
grid:
  factorization.depth: [2, 3]
  init.product_scale: {logspace: [1e-6, 1e-1, 6]}
  problem.target.rank: [1, 2]
  problem.observed: [16, 24, 32, 40, 48]
zip: {seed: 0..%d, problem.seed: 0..%d}
record: {points: 12, measures: [error, nuclear, effective_rank]}
tracking: {runs: sampled}
"""
CELLS = 120
T = TypeVar("T")


class Stages:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def take(self, stage: str, work: Callable[[], T]) -> T:
        """Do some work and return what it returns; its time is added to a stage's."""
        began = time.perf_counter()
        made = work()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began
        return made


def measured(text: str, folder: Path) -> tuple[dict[str, float], int]:
    """Return the seconds that each stage of a grid takes, and how many trials it has."""
    from orchestrator.execution.worker import Worker
    from orchestrator.grid import parse_grid
    from orchestrator.planning.pack import Crew
    from orchestrator.planning.plan import make_plan
    from orchestrator.storage.spool import Batch
    from orchestrator.sweeps.submit import detail_of, recording_of
    from workloads.training.recording import Recording
    from workloads.training.results import Finished

    stages = Stages()
    grid = stages.take("expansion and identity", lambda: parse_grid(text))
    recording, detail = recording_of(grid), detail_of(grid)
    plan = stages.take("planning", lambda: make_plan(grid.trials, recording, "auto", [Crew(1)]))
    sent = stages.take("dispatch (pickled packs)", lambda: [pickle.dumps(pack, protocol=5) for pack in plan.packs])
    packs = stages.take("dispatch (pickled packs)", lambda: [pickle.loads(one) for one in sent])
    worker = Worker(1, 0.0)
    worker.warm()

    def train(what: Recording) -> list[Finished]:
        return [event for pack in packs for event in worker.run(pack, what, {}) if isinstance(event, Finished)]

    train(Recording((), 0))
    alone = Stages()
    alone.take("training", lambda: train(Recording((), recording.points)))
    finished = stages.take("training", lambda: train(recording))
    stages.seconds["measures"] = max(0.0, stages.seconds["training"] - alone.seconds["training"])
    stages.seconds["training"] -= stages.seconds["measures"]
    events = stages.take("results to the driver", lambda: [pickle.dumps(event, protocol=5) for event in finished])
    finished = stages.take("results to the driver", lambda: [pickle.loads(event) for event in events])
    places = {trial.trial_id: place for place, trial in enumerate(grid.trials)}
    flat = stages.take("specs, flat", lambda: {trial.trial_id: trial.spec.flat() for trial in grid.trials})
    tags = {"orchestrate.sweep_id": "12345678", "mlflow.parentRunId": "0" * 32, "orchestrate.record": "{}"}
    batches = [
        Batch("pack-0", event.results, {r.trial_id: flat[r.trial_id] for r in event.results}, tags, places=places, detail=detail)
        for event in finished
    ]
    encoded = stages.take("spool", lambda: [batch.encoded() for batch in batches])
    batches = stages.take("spool", lambda: [Batch.decoded(one) for one in encoded])
    _deliver(batches, stages, folder)
    return stages.seconds, len(grid.trials)


def _deliver(batches: list[Any], stages: Stages, folder: Path) -> None:
    """Write batches into a new store."""
    from orchestrator.tracking.store import open_store
    from orchestrator.tracking.turns import ALONE
    from orchestrator.tracking.write import bulk, delivery

    store = open_store(f"sqlite:///{folder}/mlflow.db")
    experiment = store.experiment("stages")
    parent = store.client.create_run(experiment)
    target = delivery.Delivery(store, parent, ALONE)
    with contextlib.ExitStack() as stack:
        for name in ("encode_traces", "encode_factors", "encode_results", "run_record"):
            stack.enter_context(_timed(stages, delivery, name, "encoding (tables, factors, rows)"))
        for module in (delivery, bulk):
            stack.enter_context(_timed(stages, module, "put_files", "artifact files"))
        before = sum(stages.seconds.values())
        began = time.perf_counter()
        for batch in batches:
            target.write(batch)
        whole = time.perf_counter() - began
    stages.seconds["SQL"] = max(0.0, whole - (sum(stages.seconds.values()) - before))


@contextlib.contextmanager
def _timed(stages: Stages, module: Any, name: str, stage: str) -> Iterator[None]:
    """Let the time that a function takes meanwhile be a stage's."""
    function = getattr(module, name)
    setattr(module, name, lambda *arguments, **named: stages.take(stage, lambda: function(*arguments, **named)))
    try:
        yield
    finally:
        setattr(module, name, function)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12_000)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    last = max(0, args.trials // CELLS - 1)
    found: dict[str, dict[str, float]] = {}
    for name, text in (("phase diagram", PHASES % (last, last)), ("all runs, dense", DENSE % max(1, args.trials // 10))):
        with tempfile.TemporaryDirectory() as folder:
            seconds, trials = measured(text, Path(folder))
        found[name] = {stage: 1e3 * taken / trials for stage, taken in seconds.items()}
    rows: list[dict[str, Any]] = [
        {"stage": stage, **{f"{name}, ms a trial": times.get(stage, 0.0) for name, times in found.items()}}
        for stage in found["phase diagram"]
    ]
    rows.append({"stage": "all", **{f"{name}, ms a trial": sum(times.values()) for name, times in found.items()}})
    report("stages", rows, args.output)


if __name__ == "__main__":
    main()
