"""The code of users' own that a sweep was submitted with, among its artifacts: it runs where somebody asks for the sweep's work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.errors import UsageError
from orchestrator.extensions import told
from orchestrator.tracking import layout
from workloads.extensions import Extension, activate, active, packed, read_extension, unpacked

if TYPE_CHECKING:
    from orchestrator.grid import Grid
    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store


def code_files(grid: Grid) -> dict[str, bytes]:
    """Return the code that a grid's kinds and measures are from, by the paths of its artifacts, and which data files go with it."""
    with told():
        files = {f"{layout.CODE_FOLDER}/{name}": content for name, content in packed(grid.extensions).items()}
    return files | ({layout.DATA_DIGESTS: json.dumps(grid.files.names).encode()} if files else {})


def code_of(store: Store, sweep: SweepSummary) -> Sequence[Extension]:
    """Return the code that a sweep was submitted with. None of it is run."""
    from orchestrator.tracking.read.inputs import code_reader

    with told():
        return unpacked(code_reader(store, sweep.parent_run_id))


def use_code(store: Store, sweep: SweepSummary, given: Sequence[str] = (), *, kept: bool = False) -> None:
    """Have the kinds and measures that a sweep was submitted with beside the built-in ones, and no others.

    Their code is run as it was ``given`` again, or, if somebody asks for the sweep's own work, as it is ``kept``; what this process has
    run for its user already is there. Raises `UsageError` where it is neither, or what was given is not what the sweep was submitted
    with, and `orchestrator.errors.CodeError`.
    """
    code = code_of(store, sweep)
    with told():
        again = {extension.name: extension for extension in map(read_extension, given)}
        for extension in code:
            other = again.get(extension.name)
            if other is None and not kept and extension not in active():
                raise UsageError(
                    f"sweep {sweep.sweep_id} is of kinds or measures in {extension.name}, which is not run only to read: give it as --with"
                )
            if other is not None and other.digest != extension.digest:
                raise UsageError(
                    f"{extension.name} is not as sweep {sweep.sweep_id} was submitted with it (SHA-256 {other.digest[:12]}, not "
                    f"{extension.digest[:12]}): go on without --with, which takes it as it was, or submit the grid anew"
                )
        mine = {extension.name for extension in code}
        activate([*(again.get(extension.name, extension) for extension in code), *(e for e in again.values() if e.name not in mine)])
