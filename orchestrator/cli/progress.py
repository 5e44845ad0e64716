"""How a running sweep shows itself: a live display for a person, plain lines for a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from orchestrator.execution.progress import describe, fraction, seconds_left
from orchestrator.tracking import layout
from workloads.amounts import amount
from workloads.training.trial_state import Outcome

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from orchestrator.execution.progress import Reporter, State
    from orchestrator.tracking.read.queries import SweepSummary

LINE_SECONDS = 10.0
"""A pipe gets a line this often."""
RECENT_SECONDS = 60.0
"""How long what a sweep says of its progress is worth showing; clocks of machines differ by less."""
QUIET_SECONDS = 1.0
"""What takes less is not worth a word."""


@contextmanager
def reporter_for(as_json: bool) -> Iterator[Reporter]:
    """Provide a live display if standard error is a terminal, else plain lines; on standard error if standard output belongs to JSON."""
    if sys.stderr.isatty() and sys.stdout.isatty():
        with _live() as progress:
            yield _Live(progress)
    else:
        yield _Lines(err=as_json)


@contextmanager
def _live() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=28), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=8) as progress:
        yield progress


@contextmanager
def counted(what: str, *, after: float = QUIET_SECONDS) -> Iterator[Callable[[int, int], None]]:
    """Provide what shows on a terminal how far something is that takes longer than ``after`` seconds."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    shown: list[tuple[Progress, TaskID]] = []
    began = time.monotonic()
    with ExitStack() as stack:

        def advanced(done: int, count: int) -> None:
            if not shown and time.monotonic() - began >= after:
                progress = stack.enter_context(_live())
                shown.append((progress, progress.add_task(what, text="")))
            for progress, task in shown:
                progress.update(task, completed=done, total=count, text=f"{done:,} of {amount(count, 'trial')}")

        yield advanced


class _Live:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting Ray and MLflow", total=None, text="")

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def update(self, state: State) -> None:
        writing = state.finished >= state.trials - state.reused and state.logged < state.finished
        self._progress.update(
            self._task,
            description="writing to MLflow" if writing else "training",
            total=1.0,
            completed=state.logged / max(state.finished, 1) if writing else fraction(state),
            text=describe(state),
        )


class _Lines:
    def __init__(self, err: bool) -> None:
        self._err = err
        self._last = time.monotonic()

    def note(self, text: str) -> None:
        # Whoever reads it may be gone, or the disk full: a sweep does not end for want of a reader.
        with suppress(OSError):
            click.echo(text, err=self._err)

    def update(self, state: State) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS:
            self._last = now
            self.note(describe(state))


def progress_of(sweep: SweepSummary) -> State | None:
    """Return how far a sweep that runs is, as it said a moment ago; ``None`` if it has not."""
    from orchestrator.execution.progress import State

    told = State.decoded(sweep.tags.get(layout.PROGRESS, "")) if sweep.status == "RUNNING" else None
    return told[0] if told is not None and abs(time.time() - told[1]) <= RECENT_SECONDS else None


def progress_json(state: State | None) -> dict[str, Any] | None:
    """Return how far a sweep is as plain data; ``seconds_left`` at most, ``null`` where that is not known."""
    if state is None:
        return None
    outcomes = {outcome.value: state.outcomes[outcome] for outcome in Outcome}
    ended = state.finished + state.reused
    return {
        "trials": state.trials,
        "ended": ended,
        "outcomes": outcomes,
        "steps_per_second": state.rate,
        "seconds_left": seconds_left(state),
    }
