"""What a sweep's driver has to do for each node of a cluster: nodes of Ray's on this machine, with workers that train nothing.

    python -m benchmarks.nodes [--nodes 5 10 20 40] [--packs 5] [--events 20] [-o nodes.json]

For each number of nodes, of one core each and with one worker: how long it takes until all workers are up, the events a second that go
through the driver while all of them say something at once, the driver's processor time for each, and how long it takes to ask the head who
shares the cluster, which a sweep does every two seconds. *MB a node* is what Ray's own processes of a node take, which bounds how
many fit on a machine; *MB the driver* is what it has grown to.
"""

from __future__ import annotations

import argparse
import os
import resource
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import report
from orchestrator.cluster.actors import Actors
from orchestrator.cluster.pool import Workers
from orchestrator.cluster.remote_worker import RemoteWorker
from orchestrator.cluster.scratch import scratch_folder
from orchestrator.cluster.sizing import Allotment
from orchestrator.execution.events import WorkerEvent
from orchestrator.execution.scheduler import Board
from orchestrator.grid import parse_grid
from orchestrator.planning.pack import Crew, Pack
from orchestrator.planning.plan import make_plan
from orchestrator.storage.checkpoints import Checkpointing
from workloads.engines.calibration import Machine
from workloads.engines.rates import CORE
from workloads.training.recording import Recording
from workloads.training.results import Finished, HandedOver, Progress, TrialResult

STORE_BYTES = 80 << 20
"""Of each node's object store: the least that Ray takes."""
NOTHING = Recording((), 0)
GRID = """
name: nodes
fixed:
  problem: {kind: matrix_completion, shape: [2, 2], entries: [[0, 1, 1.0], [1, 0, 1.0], [1, 1, 0.0]]}
  factorization: {kind: deep_matrix, depth: 2}
  init: {kind: gaussian, scale: 1e-3}
  optimizer: {kind: gd, lr: 0.01}
  stop: {steps: 100}
"""


def idle_worker(events: int, gate: Path) -> type[RemoteWorker]:
    """Return a class of workers that say ``events`` times that they have come further, and then that their trials have failed.

    None begins before the file ``gate`` is there.
    """

    class Idle(RemoteWorker):
        def __init__(self, *_: float) -> None:
            self._asked = threading.Event()

        def warm(self) -> Machine:
            return Machine("cpu", "idle", 1 << 30, CORE)

        def ask(self) -> None:
            self._asked.set()

        def stop(self) -> None:
            pass

        def run(
            self, pack: Pack, recording: Recording, files: Mapping[str, bytes], checkpointing: Checkpointing | None
        ) -> Iterator[WorkerEvent]:
            while not gate.exists():
                time.sleep(0.05)
            for _ in range(events):
                yield Progress(1000, len(pack.trials))
            if self._asked.is_set():
                self._asked.clear()
                yield HandedOver(())
            yield Finished(tuple(TrialResult.failure(trial.trial_id, "", 0.0, 0.0) for trial in pack.trials))

    return Idle


def measured(cluster: Any, count: int, packs: int, events: int, gate: Path) -> dict[str, Any]:
    """Return a row of the table: a sweep of so many ``packs`` a node, on a cluster of ``count`` nodes to which we are connected."""
    seen = before = 0
    used = first = up = 0.0
    (pack,) = make_plan(parse_grid(GRID).trials, NOTHING, "batched", [Crew(1)]).packs
    board: Board[Any] = Board([replace(pack, name=f"pack-{n}", key=f"{n}") for n in range(packs * count)], time.monotonic)
    began = time.perf_counter()
    with Workers([(Allotment(1, 0), count)], worker=idle_worker(events, gate)) as workers:
        for _, event in workers.run(board, NOTHING, {}):
            if event is not None:
                seen += 1
            if not first and workers.up == count:
                up, before = time.perf_counter() - began, seen
                gate.touch()
                first, used = time.perf_counter(), _processor_seconds()
        seconds = time.perf_counter() - first
        through = max(seen - before, 1)
        used = _processor_seconds() - used
        asked = time.perf_counter()
        Actors().names()
        asked = time.perf_counter() - asked
    return {
        "nodes": count,
        "s until all are up": up,
        "events": through,
        "events/s": through / seconds,
        "driver's µs an event": 1e6 * used / through,
        "ms to ask who shares": 1e3 * asked,
        "MB a node": _node_megabytes(cluster),
        "MB the driver": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _node_megabytes(cluster: Any) -> float:
    """Return what the processes of the last node take that nobody else shares, in MB. Its worker is none of Ray's."""
    started = [psutil.Process(info.process.pid) for infos in list(cluster.worker_nodes)[-1].all_processes.values() for info in infos]
    taken = 0
    for process in [*started, *(child for parent in started for child in parent.children(recursive=True))]:
        with suppress(psutil.Error):
            taken += 0 if "Idle" in " ".join(process.cmdline()) else process.memory_full_info().uss
    return taken / 1e6


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", nargs="*", type=int, default=[5, 10, 20, 40])
    parser.add_argument("--packs", type=int, default=5, help="of each worker")
    parser.add_argument("--events", type=int, default=20, help="of each pack")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "^", "RAY_prestart_worker_first_driver": "0"})
    import ray
    from ray.cluster_utils import Cluster

    rows = []
    with scratch_folder() as folder:
        cluster = Cluster()
        cluster.add_node(num_cpus=0, include_dashboard=False, object_store_memory=STORE_BYTES, temp_dir=str(folder))
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            there = 0
            for count in sorted(args.nodes):
                for _ in range(count - there):
                    cluster.add_node(wait=False, num_cpus=1, object_store_memory=STORE_BYTES, temp_dir=str(folder))
                there = count
                cluster.wait_for_nodes(timeout=300)
                rows.append(measured(cluster, count, args.packs, args.events, folder / f"gate-{count}"))
                print(rows[-1], flush=True)
        finally:
            ray.shutdown()
            cluster.shutdown()
    report("nodes", rows, args.output)


if __name__ == "__main__":
    main()
