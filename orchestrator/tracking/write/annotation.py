"""What people say of a sweep: its name, and a note."""

from __future__ import annotations

from orchestrator.errors import UsageError
from orchestrator.tracking import layout
from orchestrator.tracking.notes import with_note
from orchestrator.tracking.read.queries import SweepSummary, list_sweeps
from orchestrator.tracking.store import Store, translated


def rename(store: Store, sweep: SweepSummary, name: str) -> None:
    """Give a sweep a name by which commands know it, as they know its id.

    Raises `UsageError` for a name that means another sweep already, or none that could be found again.
    """
    if not name.strip() or not name.isprintable() or name != name.strip() or len(name) > layout.NAME_LENGTH:
        raise UsageError(f"a name has 1 to {layout.NAME_LENGTH} printable characters, with no space around them")
    if name == "latest":
        raise UsageError("latest is always the newest sweep: choose another name")
    for other in list_sweeps(store, count=False):
        if name == other.experiment:
            raise UsageError(f"{name!r} is an experiment, and means its newest sweep: choose another name")
        if other.sweep_id != sweep.sweep_id and (name == other.name or other.sweep_id.startswith(name)):
            raise UsageError(f"{name!r} means sweep {other.sweep_id} of {other.experiment}: choose another name")
    with translated(store.display):
        store.client.update_run(sweep.parent_run_id, name=name)


def annotate(store: Store, sweep: SweepSummary, text: str, *, replace: bool = False) -> None:
    """Add a paragraph to a sweep's note, or ``replace`` it. MLflow's page shows it below what the program says of the sweep.

    Raises `UsageError` if it gets too long for MLflow.
    """
    note = text if replace or not sweep.note else f"{sweep.note}\n\n{text}"
    if len(note) > layout.TAG_LENGTH:
        raise UsageError(f"the note would have {len(note):,} characters: MLflow takes {layout.TAG_LENGTH:,}")
    store.tag(sweep.parent_run_id, layout.NOTE, with_note(sweep.tags.get(layout.NOTE, ""), note))
