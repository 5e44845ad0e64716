"""How a sweep shows itself to a script or a notebook: a line that is updated where somebody looks at it, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from orchestrator.execution.progress import describe

if TYPE_CHECKING:
    from orchestrator.execution.progress import Reporter, State

UPDATE_SECONDS = 0.25
"""How often a line is updated."""
LINE_SECONDS = 10.0
"""How often a stream that nobody watches gets a line."""


@contextmanager
def showing(progress: bool) -> Iterator[Reporter]:
    """Provide what shows how a sweep goes: in a notebook's cell, or on standard error; without ``progress`` nothing does."""
    if not progress:
        yield Silent()
    elif in_notebook():
        yield Cell()
    else:
        lines = Lines()
        try:
            yield lines
        finally:
            lines.close()


def in_notebook() -> bool:
    """Return whether this is a Jupyter kernel, whose cells show more than text."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class Silent:
    """Says nothing."""

    def note(self, text: str) -> None:
        pass

    def update(self, state: State) -> None:
        pass


class Cell:
    """One output of a cell: what was noted, and below it how far the sweep is."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._line = ""
        self._handle: Any = None
        self._shown = 0.0

    def note(self, text: str) -> None:
        self._notes.append(text)
        self._show()

    def update(self, state: State) -> None:
        line, now = describe(state), time.monotonic()
        ended = state.logged + state.reused >= state.trials
        if line != self._line and (ended or now - self._shown >= UPDATE_SECONDS):
            self._line, self._shown = line, now
            self._show()

    def _show(self) -> None:
        from IPython.display import display, update_display

        content = {"text/plain": "\n".join([*self._notes, *([self._line] if self._line else [])])}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            update_display(content, raw=True, display_id=self._handle.display_id)


class Lines:
    """Lines on standard error; on a terminal, that of how far the sweep is gives way to the next."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown = time.monotonic()
        self._open = False

    def note(self, text: str) -> None:
        self._write(f"{text}\n", open_=False)

    def update(self, state: State) -> None:
        now = time.monotonic()
        if now - self._shown < (UPDATE_SECONDS if self._live else LINE_SECONDS):
            return
        self._shown = now
        self._write(describe(state) if self._live else f"{describe(state)}\n", open_=self._live)

    def close(self) -> None:
        """Leave nothing behind of a line that would be updated."""
        self._write("", open_=False)

    def _write(self, text: str, *, open_: bool) -> None:
        # A sweep does not end for want of a reader.
        with suppress(OSError, ValueError):
            sys.stderr.write(("\r\x1b[2K" if self._open else "") + text)
            sys.stderr.flush()
        self._open = open_
