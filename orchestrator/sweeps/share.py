"""A sweep as one file: written from one store, taken in by another."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import StorageUnavailable, UsageError
from orchestrator.extensions import told
from orchestrator.storage.archive import Archive, ArchiveWriter, writing
from orchestrator.storage.base import open_storage
from orchestrator.sweeps.own_code import code_of
from orchestrator.sweeps.resume import grid_of, kept_files
from workloads.extensions import unpacked

if TYPE_CHECKING:
    from orchestrator.grid.data_files import Files
    from orchestrator.storage.base import Storage
    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store

UNRUNNABLE = "the file has what its trials came to, but nobody can run more of them from it"


@dataclass(frozen=True)
class Shared:
    """A sweep that was written to a file or taken in from one.

    Of its ``trials`` so many had ``ended``, of which so many are ``reused`` from sweeps that were there before. ``known`` if it was there
    itself, and nothing was done. ``code`` names users' own code that came with it.
    """

    sweep_id: str
    experiment: str
    trials: int
    ended: int
    reused: int = 0
    known: bool = False
    code: Sequence[str] = ()


def export_sweep(
    store: Store,
    sweep: SweepSummary,
    path: Path,
    tell: Callable[[str], None] = lambda _: None,
    advanced: Callable[[int, int], None] = lambda *_: None,
) -> Shared:
    """Write a sweep to a file, with what it reused from others; ``tell`` is told what is not in it.

    Raises `orchestrator.errors.TrackingUnavailable`, and `orchestrator.errors.StorageUnavailable` if the file cannot be written.
    """
    from orchestrator.grid.load import parse_tracking
    from orchestrator.tracking import layout
    from orchestrator.tracking.read.exported import export

    points = parse_tracking(store.read(sweep.parent_run_id, layout.GRID_FILE).decode()).points
    with writing(path) as archive:
        _add_data_files(store, sweep, archive, tell)
        ended = export(store, sweep, archive, points, advanced)
    return Shared(sweep.sweep_id, sweep.experiment, sweep.trials, ended)


def _add_data_files(store: Store, sweep: SweepSummary, archive: ArchiveWriter, tell: Callable[[str], None]) -> None:
    """Add the data files of a sweep's grid, if they are there as they were."""
    from orchestrator.tracking import layout

    try:
        storage = open_storage(sweep.tags.get(layout.STORAGE))
        # Code is not run to look into a grid.
        files = _listed_files(store, storage, sweep) if code_of(store, sweep) else grid_of(store, storage, sweep).files
    except (UsageError, StorageUnavailable) as error:
        tell(f"{error}: {UNRUNNABLE}")
        return
    if files.names:
        archive.add(layout.DATA_NAMES, json.dumps(files.names).encode())
    for digest, content in files.contents.items():
        archive.add(f"{layout.DATA_FOLDER}/{digest}", content)


def _listed_files(store: Store, storage: Storage, sweep: SweepSummary) -> Files:
    """Return the data files that a sweep lists. Raises `UsageError` where one is gone or has changed, or where it lists none yet."""
    from orchestrator.grid.data_files import Files
    from orchestrator.tracking import layout
    from orchestrator.tracking.read.inputs import data_digests

    names = data_digests(store, sweep.parent_run_id)
    if names is None:
        raise UsageError("which data files the grid names cannot be said without its code")
    files = Files(Path(sweep.tags.get(layout.GRID, "grid.yaml")).parent, kept_files(store, storage, sweep))
    for name, digest in names.items():
        try:
            same = files.read(name) == digest
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read {name}: {error.strerror if isinstance(error, OSError) else error}") from error
        if not same:
            raise UsageError(f"{name} is not as it was when the sweep was submitted")
    return files


def import_sweep(store: Store, path: Path, advanced: Callable[[int, int], None] = lambda *_: None) -> Shared:
    """Take in the sweep in a file; one that is there already stays as it is. What was interrupted may be done again.

    Raises `UsageError` for a file that is not to be read, before anything is written, `orchestrator.errors.BusyError` if another process
    writes to the experiment, and `orchestrator.errors.TrackingUnavailable`.
    """
    from orchestrator.tracking import layout
    from orchestrator.tracking.read.queries import list_sweeps
    from orchestrator.tracking.sweep_file import SweepFile
    from orchestrator.tracking.turns import experiment_turn
    from orchestrator.tracking.write.intake import Intake

    with Archive(path) as archive:
        archive.check()
        file = SweepFile(archive)
        about, trials, ended = file.about, len(file.trials), len(file.results)
        with told():
            code = tuple(extension.name for extension in unpacked(file.code))
        with experiment_turn(store, about.experiment, patient=False):
            for sweep in list_sweeps(store, about.experiment):
                if sweep.sweep_id == about.sweep_id and layout.IMPORTING not in sweep.tags:
                    there = sum(sweep.counts.values()) + sweep.reused
                    return Shared(sweep.sweep_id, sweep.experiment, sweep.trials, there, known=True)
            intake = Intake(store, file, advanced)
            intake.take()
    return Shared(about.sweep_id, about.experiment, trials, ended, len(intake.reused), code=code)
