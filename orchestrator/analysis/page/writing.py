"""Where a sweep's page goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.analysis.page.document import document
from orchestrator.analysis.report import folder_of
from orchestrator.files import make_folder, write_file
from orchestrator.tracking import layout
from orchestrator.tracking.write.description import describe

if TYPE_CHECKING:
    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store


def write_page(store: Store, sweep: SweepSummary, output: Path | None, tell: Callable[[str], None] = lambda _: None) -> Path:
    """Write a sweep's page to ``output`` and return that; or else beside its figures, and into its MLflow run.

    Raises `orchestrator.errors.StorageUnavailable` if it cannot be written, and what reading MLflow raises.
    """
    page = document(store, sweep, tell)
    path = output or folder_of([sweep]) / layout.REPORT_FILE
    if output is None:
        make_folder(path.parent)
    write_file(path, page)
    if output is None:
        store.attach(sweep.parent_run_id, {layout.REPORT_FILE: page})
        describe(store, sweep.parent_run_id)
    return path
