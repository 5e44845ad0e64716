"""What came of a disturbed sweep beside an undisturbed one, and what is there that should not be."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import psutil

from orchestrator.errors import OrchestratorError
from orchestrator.storage.base import LocalStorage
from orchestrator.storage.folder import folders
from orchestrator.tracking import layout
from orchestrator.tracking.read.queries import list_sweeps
from orchestrator.tracking.store import open_store
from tests.chaos.arena import Arena
from tests.chaos.sweep import Size

if TYPE_CHECKING:
    from mlflow import MlflowClient

Tables = tuple[pd.DataFrame, pd.DataFrame]
"""Runs and traces of a sweep."""


def tables(arena: Arena) -> Tables:
    """The sweep's runs and traces."""
    import orchestrator

    if arena.server is not None:
        arena.server.wait()
    return orchestrator.load_runs("chaos", tracking_uri=arena.store), orchestrator.load_history("chaos", tracking_uri=arena.store)


def undisturbed(folder: Path, size: Size, database: Path | None = None, cluster: str | None = None) -> Tables:
    """The tables of a sweep that nobody disturbs, on a Ray of its own or on two workers of a ``cluster`` with this user's token."""
    arena = Arena(folder, size, database=database)
    try:
        if cluster is not None:
            arena.environment |= {"RAY_ADDRESS": cluster, "RAY_AUTH_MODE": "token"}
        arena.start("submit", *(("--workers", "2") if cluster else ()))
        assert arena.driver is not None
        assert arena.driver.wait(600) == 1, arena.log
        return tables(arena)
    finally:
        arena.close()


def compared(arena: Arena, expected: Tables) -> list[str]:
    """What is not as in the undisturbed sweep."""
    try:
        return list(_differences(tables(arena), expected))
    except OrchestratorError as error:
        return [f"the sweep cannot be read: {error}"]


def _differences(found: Tables, expected: Tables) -> Iterator[str]:
    (runs, history), (true_runs, true_history) = found, expected
    if list(runs.trial_id) != list(true_runs.trial_id):
        yield f"the trials are not the same: {len(runs)} of {len(true_runs)}"
        return
    for column in ("outcome", "steps"):
        wrong = runs.trial_id[~((runs[column] == true_runs[column]) | (runs[column].isna() & true_runs[column].isna()))]
        if len(wrong):
            yield f"{column} of {len(wrong)} trials differs, such as {wrong.iloc[0]}"
    if list(runs.columns) != list(true_runs.columns):
        yield f"columns differ: {sorted(set(runs.columns) ^ set(true_runs.columns))}"
        return
    for name in ("loss", "error", "nuclear", "effective_rank", "cp_rank"):
        if not np.allclose(runs[name], true_runs[name], rtol=1e-6, atol=1e-12, equal_nan=True):
            yield f"final {name} differs"
    if len(history) != len(true_history):
        yield f"the traces have {len(history)} rows, not {len(true_history)}"
        return
    if not (history.trial_id.equals(true_history.trial_id) and history.step.equals(true_history.step)):
        yield "the traces have other steps"
        return
    for name in history.columns[2:]:
        if not np.allclose(history[name], true_history[name], rtol=1e-6, atol=1e-12, equal_nan=True):
            yield f"the traces of {name} differ"


def remains(arena: Arena) -> Iterator[str]:
    """What is there that should not be, in MLflow, on disk and among the processes."""
    yield from _in_mlflow(arena)
    left = in_storage(arena.storage, _known(arena), arena.log) if arena.kind.restored else list(arena.storage.rglob("*"))
    if left:
        yield f"the storage is not empty: {[str(path.relative_to(arena.folder)) for path in left][:3]}"
    parts = [str(path) for path in arena.folder.rglob("*.part")]
    if parts:
        yield f"half-written files: {parts[:3]}"
    deadline = time.monotonic() + 15
    while orphans := _orphans(arena):
        if time.monotonic() > deadline:
            yield f"processes are left: {orphans[:3]}"
            return
        time.sleep(0.5)


def in_storage(root: Path, known: Collection[str], said: str) -> list[Path]:
    """What is in the storage ``root`` and should not be.

    Results of sweeps that are not ``known`` to the database any more, since an older one was put back, are nobody's to remove; but the
    driver must have ``said`` that they wait.
    """
    kept = [
        root / folder.name
        for folder, its in folders(LocalStorage(root))
        if its.sweep_id not in known and folder.spool.names() and f"results of sweep {its.sweep_id} wait in the storage" in said
    ]
    return [path for path in root.rglob("*") if not any(path.is_relative_to(one) or one.is_relative_to(path) for one in kept)]


def _known(arena: Arena) -> set[str]:
    """The sweeps that the database has."""
    return {sweep.sweep_id for sweep in list_sweeps(open_store(arena.store), "chaos", count=False)}


def _in_mlflow(arena: Arena) -> Iterator[str]:
    from mlflow import MlflowClient

    client = MlflowClient(arena.store)
    experiment = client.get_experiment_by_name("chaos").experiment_id
    runs = client.search_runs([experiment], max_results=20_000)
    # A sweep that is run afresh has runs of its own.
    finished = Counter(
        (run.data.tags[layout.PARENT], run.data.tags[layout.TRIAL_ID])
        for run in runs
        if run.data.tags.get(layout.KIND) == layout.TRIAL and run.info.status == "FINISHED"
    )
    for (_, trial), count in finished.items():
        if count != 1:
            yield f"trial {trial} has {count} finished runs"
    trials = {trial for _, trial in finished}
    if len(trials) != arena.size.finished:
        yield f"{len(trials)} trials have a finished run, not {arena.size.finished}"
    statuses = Counter(run.info.status for run in runs)
    if statuses["RUNNING"]:
        yield f"{statuses['RUNNING']} runs are still running"
    known = {run.info.run_id for run in client.search_runs([experiment], max_results=20_000, run_view_type=3)}
    folders = [*(arena.work / "mlruns").glob("*/*"), *(arena.work / "artifacts").glob("*/*")]
    stray = [path.name for path in folders if len(path.name) == 32 and path.name not in known]
    # What a database has lost that is older than they are is nobody's any more.
    if stray and not arena.kind.restored:
        yield f"{len(stray)} folders of artifacts belong to no run, such as {stray[0]}"
    if arena.size.drawn:
        sweeps = sorted((run for run in runs if run.data.tags.get(layout.KIND) == layout.SWEEP), key=lambda run: -run.info.start_time)
        # By a clock that was set, the newest sweep may be any.
        missing = [_undrawn(client, sweep.info.run_id) for sweep in (sweeps if arena.kind.clock else sweeps[:1])]
        if all(missing):
            yield f"the sweep has no {', '.join(sorted(missing[0]))}"


def _undrawn(client: MlflowClient, parent_id: str) -> set[str]:
    """The answers to the grid's questions that a sweep does not have."""
    there = {file.path for folder in (None, layout.FIGURES_FOLDER) for file in client.list_artifacts(parent_id, folder)}
    return {layout.CLAIMS_FILE, f"{layout.FIGURES_FOLDER}/errors.png"} - there


def _orphans(arena: Arena) -> list[str]:
    """Processes of a driver that is gone. Those of the MLflow server and of the cluster's nodes are meant to be there."""
    keep = {arena.server.process.pid} if arena.server is not None else set()
    found = []
    for process in arena.processes():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            ancestors = {parent.pid for parent in process.parents()}
            ours = process.pid in keep or ancestors & keep or (arena.cluster is not None and os.getpid() in ancestors)
            if not ours or (arena.cluster is not None and "RemoteWorker" in line):
                found.append(line[:80])
    return found
