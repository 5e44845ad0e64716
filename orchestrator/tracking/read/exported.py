"""A sweep into an archive: all that is read of it anywhere, with the trials that other sweeps ran, so that it stands alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.storage.archive import ArchiveWriter
from orchestrator.tracking import layout
from orchestrator.tracking.gathering import Gathering
from orchestrator.tracking.read.queries import SweepSummary
from orchestrator.tracking.read.runs import experiments_of, runs_by_id
from orchestrator.tracking.read.tables import Found, find_trials
from orchestrator.tracking.store import Store, translated
from orchestrator.tracking.sweep_file import CARRIED, OWN_FILES, RESULTS_FILE, RUNS_FILE, RUNS_FOLDER, taken_along
from orchestrator.tracking.write.results import encode_rows
from orchestrator.tracking.write.traces import parquet_bytes

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run


def export(
    store: Store, sweep: SweepSummary, archive: ArchiveWriter, points: int, advanced: Callable[[int, int], None] = lambda *_: None
) -> int:
    """Write a sweep into an archive, but for its manifest's end and its grid's data files, and return how many of its trials have ended.

    ``points`` is about how many rows of a trace its trials' histories in MLflow have. ``advanced`` is told how many runs of how many are
    written. Raises `orchestrator.errors.TrackingUnavailable`.
    """
    with translated(store.display):
        parent = store.client.get_run(sweep.parent_run_id)
        found = find_trials(store, sweep)
        for name, content in _own_files(store, parent):
            archive.add(name, content)
        archive.add(layout.TRIALS_FILE, _trials(sweep, found))
        gathering = Gathering(store, found, found.ended["outcome"].notna() & (found.ended["outcome"] != layout.DELETED))
        for name, content in gathering.files():
            archive.add(name, content)
        archive.add(RESULTS_FILE, encode_rows(gathering.rows))
        experiments = {experiment: None for run in found.parents.values() for experiment in experiments_of(run)}
        _export_runs(store, list(experiments), gathering.rows, archive, advanced)
        archive.finish(_about(store, sweep, parent, points))
    return len(gathering.rows)


def _own_files(store: Store, parent: Run) -> Iterator[tuple[str, bytes]]:
    artifacts = store.artifacts(parent)
    names = [*OWN_FILES, layout.DATA_DIGESTS]
    for folder in CARRIED:
        names += artifacts.names(folder)
    for name in names:
        content = artifacts.read(name)
        if content is not None:
            yield name, content


def _trials(sweep: SweepSummary, found: Found) -> bytes:
    """Return the sweep's list of trials; ``source`` is the sweep that ran one, if it is another."""
    import pyarrow as pa

    sources = {run_id: run.data.tags.get(layout.SWEEP_ID) for run_id, run in found.parents.items()}
    sources[sweep.parent_run_id] = None
    columns = {
        "trial_id": found.trials["trial_id"],
        "pack": found.trials["pack"],
        "spec": found.trials["spec"],
        "source": found.ended["parent"].map(sources),
    }
    return parquet_bytes(pa.table({name: pa.array(column, pa.string(), from_pandas=True) for name, column in columns.items()}))


def _export_runs(
    store: Store, experiments: Sequence[str], rows: pd.DataFrame, archive: ArchiveWriter, advanced: Callable[[int, int], None]
) -> None:
    """Write what MLflow knows of those trials that are runs, and the files that these have of their own."""
    import pyarrow as pa

    own = rows[rows["run_id"].notna()]
    runs = runs_by_id(store, experiments, own["run_id"])
    listed: list[dict[str, Any]] = []
    for done, (trial_id, run_id, packed) in enumerate(zip(own["trial_id"], own["run_id"], own["factors"].notna(), strict=True)):
        advanced(done, len(own))
        if run_id not in runs:
            # Deleted since a moment ago.
            continue
        run = runs[run_id]
        listed.append({"trial_id": trial_id, **_described(run)})
        if not packed:
            artifacts = store.artifacts(run)
            for name in (layout.FACTORS_FILE, *artifacts.names(layout.CHECKPOINTS_FOLDER)):
                content = artifacts.read(name)
                if content is not None:
                    archive.add(f"{RUNS_FOLDER}/{trial_id}/{name}", content)
    fields: list[pa.Field[Any]] = [pa.field(name, pa.string()) for name in ("trial_id", "run_id", "name", "tags", "params")]
    fields += [pa.field(name, pa.int64()) for name in ("started", "ended")]
    archive.add(RUNS_FILE, parquet_bytes(pa.Table.from_pylist(listed, schema=pa.schema(fields))))


def _described(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "started": run.info.start_time,
        "ended": run.info.end_time or run.info.start_time,
        "tags": json.dumps(taken_along(run.data.tags), sort_keys=True),
        "params": json.dumps(dict(run.data.params), sort_keys=True),
    }


def _about(store: Store, sweep: SweepSummary, parent: Run, points: int) -> Mapping[str, Any]:
    histories: dict[str, Sequence[Any]] = {name: store.client.get_metric_history(parent.info.run_id, name) for name in parent.data.metrics}
    return {
        "sweep_id": sweep.sweep_id,
        "experiment": sweep.experiment,
        "run_id": parent.info.run_id,
        "name": parent.info.run_name,
        "status": parent.info.status,
        "started": parent.info.start_time,
        "ended": parent.info.end_time,
        "points": points,
        "tags": taken_along(parent.data.tags),
        "metrics": {name: [(point.value, point.timestamp, point.step) for point in history] for name, history in histories.items()},
    }
