"""One thing looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.errors import OrchestratorError, one_line


@dataclass(frozen=True)
class Check:
    """One thing looked at: its name, whether it works, and what was found or is to be done."""

    name: str
    ok: bool
    found: str


def attempt(name: str, look: Callable[[], str]) -> Check:
    """Return what came of ``look``, which says what it found, or raises."""
    try:
        return Check(name, True, look())
    except OrchestratorError as error:
        return Check(name, False, str(error))
    except Exception as error:  # a broken installation can raise anything; the report goes on
        return Check(name, False, one_line(f"{type(error).__name__}: {error}"))
