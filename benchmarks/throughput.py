"""A sweep of many small trials from command to finished MLflow runs, against two rivals in the same process tree.

    python -m benchmarks.throughput [--trials 1000] [--tune-trials 40] [-o throughput.json]

1. ``orchestrate submit``: 2x2 completion at depth 2, 2,000 steps, 12 measures, default recording, into a fresh SQLite store.
2. The bare loop: `MlflowClient` calls, one run after another, that log the same content (read back from the sweep) into another fresh store.
   It trains nothing.
3. Ray Tune (``pip install ray[tune]``): the same training as an eager autograd loop, one trial a task.

Each time is a whole process, with start-up; rates are trials a second.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.command import store, submit, tune_seconds
from benchmarks.report import report

GRID = """
name: throughput
fixed:
  problem: {kind: matrix_completion, shape: [2, 2], entries: [[0, 1, 1.0], [1, 0, 1.0], [1, 1, 0.0]]}
  factorization: {kind: deep_matrix, depth: 2}
  init: {kind: gaussian, product_scale: 1e-3}
  optimizer: {kind: gd, lr: 0.01}
  stop: {steps: 2000}
seeds: %d
record:
  measures: [nuclear, frobenius, spectral, schatten_0.5, effective_rank, stable_rank, rank, det, entry_0_0, singular_values]
"""

BARE = """
import sys
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
source, target = (MlflowClient(uri) for uri in sys.argv[1:3])
import orchestrator
from safetensors.numpy import save
factors = orchestrator.load_factors("throughput", tracking_uri=sys.argv[1])
experiment = source.get_experiment_by_name("throughput").experiment_id
runs = source.search_runs([experiment], "tags.`orchestrate.kind` = 'trial'", max_results=50000)
contents = []
for run in runs[: int(sys.argv[4])]:
    metrics = [m for key in run.data.metrics for m in source.get_metric_history(run.info.run_id, key)]
    contents.append((run, [Metric(m.key, m.value, m.timestamp, m.step) for m in metrics], save(factors[run.data.tags["orchestrate.trial_id"]])))
new = target.create_experiment("bare", artifact_location=sys.argv[3] + "/artifacts")
import os, time
path = os.path.join(sys.argv[3], "factors.safetensors")
start = time.perf_counter()
for run, metrics, factors in contents:
    tags = {k: v for k, v in run.data.tags.items()}
    made = target.create_run(new, start_time=run.info.start_time, tags=tags, run_name=run.info.run_name).info.run_id
    for n in range(0, len(metrics), 1000):
        target.log_batch(made, metrics[n : n + 1000], [Param(k, v) for k, v in run.data.params.items()] if n == 0 else [])
    with open(path, "wb") as file:
        file.write(factors)
    target.log_artifact(made, path)
    target.set_terminated(made, "FINISHED", run.info.end_time)
print(len(contents) / (time.perf_counter() - start), sum(len(m) for _, m, _ in contents) / len(contents))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--bare-trials", type=int, default=300, help="trials of the bare loop, whose rate does not depend on their number")
    parser.add_argument("--tune-trials", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "grid.yaml").write_text(GRID % args.trials)
        done = submit(folder / "grid.yaml", folder)
        assert done.summary["exhausted"] == args.trials, done.summary
        ours = args.trials / done.seconds
        bare, points = map(float, _run(BARE, store(folder), f"sqlite:///{folder}/bare.db", text, str(args.bare_trials)).split())
        tune = args.tune_trials / tune_seconds(args.tune_trials, 2000, folder) if args.tune_trials else float("nan")
    rows = [
        {"what": "orchestrate submit, whole command", "trials": args.trials, "trials/s": ours, "ours/rival": 1.0},
        {
            "what": f"bare MlflowClient loop, {points:.0f} points a run, no training",
            "trials": args.bare_trials,
            "trials/s": bare,
            "ours/rival": ours / bare,
        },
        {"what": "Ray Tune, eager loop, nothing logged", "trials": args.tune_trials, "trials/s": tune, "ours/rival": ours / tune},
    ]
    report("throughput", rows, args.output)


def _run(source: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", source, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    main()
