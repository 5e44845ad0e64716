"""Ledgers: what came of things that take long, a line of JSON each, kept in the repository (``tests/ledgers``).

Such things are done in portions: `in_time` gives them out until the time is up.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "ledgers"

T = TypeVar("T")


def append(ledger: Path, line: Any) -> None:
    """Add a line, which is a dataclass."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with ledger.open("a") as file:
        file.write(json.dumps(asdict(line)) + "\n")


def read(ledger: Path, kind: type[T]) -> list[T]:
    """Return the lines of a ledger, each a ``kind``."""
    return [kind(**json.loads(text)) for text in ledger.read_text().splitlines()]


def in_time(things: Iterable[T], minutes: float) -> Iterator[T]:
    """Yield ``things``, the first one in any case, the others as long as less than so many ``minutes`` have gone by."""
    until = time.monotonic() + minutes * 60
    for number, thing in enumerate(things):
        if number and time.monotonic() > until:
            print("the rest is for another portion")
            return
        yield thing


def now() -> str:
    """Return the time, as ledgers have it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def commit() -> str:
    """Return the commit, with ``+`` if files other than ledgers differ from it."""
    found = git("rev-parse", "--short=10", "HEAD").strip()
    changed = git("status", "--porcelain", "--", ".", ":!tests/ledgers")
    return found + ("+" if changed else "")


def date_of(commit: str) -> str:
    """Return when a commit was written, as ledgers have it: that stays when it is put on top of others, and its name does not."""
    seconds = int(git("show", "--no-patch", "--format=%at", commit))
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def git(*arguments: str) -> str:
    """Return what git says."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout
