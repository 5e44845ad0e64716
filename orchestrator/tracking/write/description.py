"""What MLflow's page says first of a sweep: what came of it, whose trials it reuses, its verdicts, and where to read more."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.errors import one_line
from orchestrator.tracking import layout
from orchestrator.tracking.notes import with_summary
from orchestrator.tracking.read.origins import Origin, origins
from orchestrator.tracking.read.queries import sweep_of
from workloads.amounts import amount

if TYPE_CHECKING:
    from mlflow.entities import Run

    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store

NAMED = 5
"""Sweeps that are named of those from which trials are reused."""


def describe(store: Store, parent_run_id: str) -> None:
    """Write anew what a sweep's description says of it, with what people have written kept. What cannot be written is left: it is a
    convenience, and no reason for anything to fail."""
    with suppress(Exception):
        parent = store.client.get_run(parent_run_id)
        summary = "\n".join(_lines(store, parent, sweep_of(store, parent)))
        # As it is now: somebody may have written in the meantime.
        tags = store.client.get_run(parent_run_id).data.tags
        store.client.set_tag(parent_run_id, layout.NOTE, with_summary(tags.get(layout.NOTE, ""), summary))


def _lines(store: Store, parent: Run, sweep: SweepSummary) -> Iterator[str]:
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in sweep.counts.items() if count)
    yield f"**{amount(sweep.trials, 'trial')}**: {counts or 'none run'}{_reused(sweep, origins(store, parent))}"
    there = {file.path for file in store.client.list_artifacts(sweep.parent_run_id)}
    names = {layout.REPORT_FILE: "report", layout.FIGURES_FOLDER: "figures"}
    links = [f"[{name}]({layout.page(sweep.experiment_id, sweep.parent_run_id, path)})" for path, name in names.items() if path in there]
    if links:
        yield from ("", " · ".join(links))
    content = store.artifacts(parent).read(layout.CLAIMS_FILE) if layout.CLAIMS_FILE in there else None
    if verdicts := json.loads(content or "[]"):
        yield from ("", "| claim | verdict | found |", "|---|---|---|")
        for verdict in verdicts:
            word = "does not hold" if verdict["verdict"] == "broken" else verdict["verdict"]
            shown = word if verdict["holds"] or not verdict["required"] else f"**{word}**"
            yield f"| {_text(verdict['name'])} | {shown} | {_text(verdict['found'])} |"


def _reused(sweep: SweepSummary, known: list[Origin]) -> str:
    if not sweep.reused:
        return ""
    named = [
        f"{origin.trials:,} from [{origin.sweep_id}]({layout.page(origin.experiment_id, origin.run_id)})"
        + (f" of {_text(origin.experiment)}" if origin.experiment != sweep.experiment else "")
        for origin in known
        if origin.sweep_id
    ]
    more = f" and {len(named) - NAMED} more sweeps" if len(named) > NAMED else ""
    return f"; {sweep.reused:,} reused" + (f": {', '.join(named[:NAMED])}{more}" if named else "")


def _text(text: str) -> str:
    """Return a text in which Markdown sees nothing of its own."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(one_line(text), quote=False))
