"""A sweep's page: put together from what MLflow has of it, and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

import jinja2

from orchestrator.analysis.page import about
from orchestrator.analysis.page.charts import drawn
from orchestrator.analysis.page.trials import table_of
from orchestrator.analysis.rendering import scripts
from orchestrator.analysis.report import judged, questions_of
from orchestrator.analysis.results import Results
from orchestrator.errors import OrchestratorError
from orchestrator.tracking import layout
from orchestrator.tracking.read.origins import origins
from orchestrator.tracking.read.tables import failures, lost
from orchestrator.tracking.store import translated
from workloads.training.trial_state import Outcome

if TYPE_CHECKING:
    from orchestrator.grid.claims import Claim
    from orchestrator.grid.figures import Figure
    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store


def document(store: Store, sweep: SweepSummary, tell: Callable[[str], None] = lambda _: None) -> bytes:
    """Return a page about a sweep that opens without a network. ``tell`` is called before what takes long.

    Raises what reading MLflow raises. What cannot be drawn or judged is said on the page.
    """
    results = Results.load(store, [sweep])
    counts = _counts(results)
    ended = int(results.ended.sum())
    grid = store.read(sweep.parent_run_id, layout.GRID_FILE).decode(errors="replace")
    figures, claims, unread = _questions(store, sweep)
    with translated(store.display):
        parent = store.client.get_run(sweep.parent_run_id)
    charts = drawn(figures, results, tell)
    page = (
        _environment()
        .get_template("sweep.html")
        .render(
            sweep=sweep,
            question=about.question(grid),
            grid=grid,
            unread=unread,
            state=about.state(sweep, ended, datetime.now(UTC)),
            counts=counts,
            verdicts=judged(claims, results),
            charts=charts,
            vega=_in_script(scripts()) if any(chart.spec for chart in charts) else "",
            table=table_of(results),
            lost=list(lost(results.runs)),
            failures=about.failed(failures(store, sweep)) if counts.get(Outcome.FAILED.value) else [],
            origins=origins(store, parent),
            facts=list(about.facts(sweep)),
            commands=about.commands(sweep),
        )
    )
    return page.encode(errors="replace")


def _questions(store: Store, sweep: SweepSummary) -> tuple[dict[str, Figure], dict[str, Claim], str]:
    """Return the figures and claims of a sweep's grid, or in words why they cannot be read: another version may have written it."""
    try:
        return *questions_of(store, sweep), ""
    except OrchestratorError as error:
        return {}, {}, str(error)


def _counts(results: Results) -> dict[str, int]:
    """Return how many trials have each outcome, reused ones included, and how many have none yet."""
    found = results.runs["outcome"].value_counts()
    counts = {outcome: int(found.get(outcome, 0)) for outcome in (*(kind.value for kind in Outcome), layout.DELETED)}
    counts["without an outcome"] = int(results.runs["outcome"].isna().sum())
    return {outcome: count for outcome, count in counts.items() if count}


def _in_script(text: str) -> str:
    """Return a script in whose texts nothing ends the script or begins a comment of HTML's."""
    return re.sub(r"<(/script|!--)", r"<\\\1", text, flags=re.IGNORECASE)


def _as_data(spec: str) -> str:
    """Return JSON for a script element, which no text in it can end."""
    return spec.replace("<", "\\u003c")


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("orchestrator.analysis.page")
    made = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    made.filters["as_data"] = _as_data
    return made
