"""Where a sweep comes from, as its run in MLflow says, and what to type to have it again."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING

from orchestrator.tracking import layout
from workloads.amounts import amount, ended_of

if TYPE_CHECKING:
    from orchestrator.tracking.read.queries import SweepSummary

NAMED = 5
"""Trials that are named where many have failed in the same way."""


@dataclass(frozen=True)
class Failure:
    """A way to fail: the last line of the traceback, of how many ``trials``, and some of their ids."""

    reason: str
    trials: int
    named: tuple[str, ...]


def question(grid: str) -> str:
    """Return what a grid file says in comments before anything else, without what is for editors."""
    lines = []
    for line in grid.splitlines():
        if line.strip() and not line.startswith("#"):
            break
        text = line.removeprefix("#").strip()
        if not text.startswith("yaml-language-server:"):
            lines.append(text)
    return "\n".join(lines).strip()


def state(sweep: SweepSummary, ended: int, now: datetime) -> str:
    """Return in words how a sweep stands, of whose trials so many have ended."""
    if sweep.status == "RUNNING":
        return f"not at its end: {ended:,} of {amount(sweep.trials, 'trial')} had an outcome on {moment(now)}, when this was written"
    if sweep.status != "FINISHED" or ended < sweep.trials:
        return f"interrupted: {ended_of(ended, sweep.trials)}"
    return "complete"


def facts(sweep: SweepSummary) -> Iterator[tuple[str, str]]:
    """Yield what is known of where, when and with what a sweep was run, by what it is."""
    tags = sweep.tags
    yield "sweep", sweep.sweep_id if sweep.name in ("", layout.sweep_name(sweep.sweep_id)) else f"{sweep.sweep_id}, {sweep.name}"
    yield "experiment", sweep.experiment
    yield "run in MLflow", sweep.parent_run_id
    yield "started", moment(datetime.fromtimestamp(sweep.started, UTC))
    if sweep.ended is not None:
        yield "ended", f"{moment(datetime.fromtimestamp(sweep.ended, UTC))}, after {sweep.ended - sweep.started:,.1f} s"
    attempts = tags.get(layout.ATTEMPT, "1")
    if attempts != "1":
        yield "taken up", f"{attempts} times"
    for label, tag in (("by", layout.USER), ("on", layout.HOST), ("orchestrate", layout.VERSION)):
        if tags.get(tag):
            yield label, tags[tag]
    for tag in sorted(tags):
        if tag.startswith(layout.VERSIONS):
            yield tag.removeprefix(layout.VERSIONS), tags[tag]
    if commit := tags.get(layout.COMMIT):
        yield "commit", f"{commit}, with changes that are not in it" if tags.get(layout.DIRTY) == "true" else commit
    if overrides := _overrides(sweep):
        yield "set beside the grid", " ".join(overrides)


def commands(sweep: SweepSummary) -> list[tuple[str, str]]:
    """Return commands, and what each is for."""
    name = PurePath(sweep.tags.get(layout.GRID, layout.GRID_FILE)).name
    given = ["orchestrate", "submit", name, *(word for text in _overrides(sweep) for word in ("--set", text))]
    known = sweep.sweep_id
    found = [("where the grid was then", f"git checkout {shlex.quote(sweep.tags[layout.COMMIT])}")] if layout.COMMIT in sweep.tags else []
    return [
        *found,
        (f"run it: {name} is the grid file on this page", shlex.join(given)),
        ("the trials", f"orchestrate runs {known}"),
        ("their traces", f"orchestrate history {known} -o history.csv"),
        ("draw the figures and check the claims again", f"orchestrate figures {known} && orchestrate verify {known}"),
        ("take all of it elsewhere", f"orchestrate export {known} -o {known}.zip"),
    ]


def failed(failures: Iterable[tuple[str, str, str]]) -> list[Failure]:
    """Return in which ways trials failed, given (trial id, run id, traceback) of each, the most frequent first."""
    ways: dict[str, list[str]] = defaultdict(list)
    for trial_id, _, traceback in failures:
        lines = traceback.strip().splitlines()
        ways[lines[-1] if lines else "nothing is known of why"].append(trial_id)
    found = [Failure(reason, len(trials), tuple(trials[:NAMED])) for reason, trials in ways.items()]
    return sorted(found, key=lambda failure: -failure.trials)


def moment(when: datetime) -> str:
    """Return a time as a page has it that is read anywhere."""
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")


def _overrides(sweep: SweepSummary) -> list[str]:
    return [str(text) for text in json.loads(sweep.tags.get(layout.OVERRIDES, "[]"))]
