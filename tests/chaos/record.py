"""The ledger of the chaos suite: a line for each schedule, and what they add up to."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests import ledger
from tests.chaos.schedule import Report

LEDGER = ledger.FOLDER / "chaos.jsonl"
UNDISTURBED = "as undisturbed"


@dataclass(frozen=True)
class Line:
    """A schedule: when, of which commit (with ``+`` if files had been changed), what was done how often, and what came of it.

    ``log`` is the file in which the last words of one that broke something are kept, beside the ledger; empty if there is none.
    """

    date: str
    commit: str
    seed: int
    kind: str
    kills: Mapping[str, int]
    seconds: int
    verdict: str
    log: str = ""


@dataclass(frozen=True)
class Sums:
    """What lines add up to."""

    schedules: int
    kills: Counter[str]
    violations: int

    def __str__(self) -> str:
        kinds = ", ".join(f"{name} {count}" for name, count in self.kills.most_common())
        return f"{self.schedules:,} schedules, {self.kills.total():,} disturbances ({kinds or 'none'}), {self.violations:,} violations"


def entered(report: Report, path: Path) -> Line:
    """Add a schedule to a ledger, and keep what it said if it broke something."""
    verdict, date, log = "; ".join(report.violations) or UNDISTURBED, ledger.now(), ""
    if report.violations:
        kept = path.with_suffix("") / f"{date[:19].replace(':', '')}-{report.seed}.log"
        kept.parent.mkdir(parents=True, exist_ok=True)
        said = "".join(f"{line}\n" for line in report.log)
        # Whoever reads it has them elsewhere.
        for place, name in ((str(ledger.ROOT), "."), (sys.prefix, "<python>"), (sys.base_prefix, "<python>")):
            said = said.replace(place, name)
        kept.write_text(said)
        log = str(kept.relative_to(path.parent))
    line = Line(date, ledger.commit(), report.seed, report.kind, dict(report.kills), round(report.seconds), verdict, log)
    ledger.append(path, line)
    return line


def sums(lines: Iterable[Line], since: str = "") -> Sums:
    """Add up lines, those from the date ``since`` on."""
    chosen = [line for line in lines if line.date >= since]
    kills: Counter[str] = Counter()
    for line in chosen:
        kills.update(line.kills)
    return Sums(len(chosen), kills, sum(line.verdict != UNDISTURBED for line in chosen))


def summary(lines: list[Line], since: str = "") -> Iterator[str]:
    """Yield what a ledger adds up to: in all, by kind, since its last violation and, if one is given, since a date."""
    yield f"in all: {sums(lines)}"
    for kind in sorted({line.kind for line in lines}):
        yield f"  {kind}: {sums(line for line in lines if line.kind == kind)}"
    broken = [number for number, line in enumerate(lines) if line.verdict != UNDISTURBED]
    if broken:
        yield f"since the last violation: {sums(lines[broken[-1] + 1 :])}"
    if since:
        yield f"since {since}: {sums(lines, since)}"
    for number in broken:
        yield f"{lines[number].date} {lines[number].commit}, seed {lines[number].seed}, {lines[number].kind}: {lines[number].verdict}"
