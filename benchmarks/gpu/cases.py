"""What sections are made of: cases, each of which finds something out, and a verdict over them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import torch


class Verdict(StrEnum):
    """What came out of a section."""

    OK = "ok"
    FAIL = "FAIL"
    UNFINISHED = "unfinished"
    """Time was up before all cases had been looked at; those that were are as they should be."""
    SKIPPED = "skipped"
    """Nothing here could be looked at."""


@dataclass(frozen=True)
class Finding:
    """What a case has found: ``values`` for the table; what is ``wrong`` and why it was ``skipped``, empty if it is not."""

    values: Mapping[str, Any] = field(default_factory=dict)
    wrong: str = ""
    skipped: str = ""

    def as_json(self) -> dict[str, Any]:
        """The finding as plain values; JSON knows no infinite numbers."""
        values = {key: value if not isinstance(value, float) or math.isfinite(value) else str(value) for key, value in self.values.items()}
        return {**asdict(self), "values": values}


@dataclass(frozen=True)
class Case:
    """One thing to find out, called ``name``. What ``look`` raises is wrong, too."""

    name: str
    look: Callable[[], Finding]


@dataclass(frozen=True)
class Section:
    """Cases on a device. ``needs_cuda``: why a CPU cannot stand in for a GPU, empty where it can."""

    name: str
    what: str
    cases: Callable[[torch.device], Sequence[Case]]
    needs_cuda: str = ""


@dataclass
class Report:
    """What has come out of a section so far: of ``cases`` there are, those in ``found``; ``broken`` says why no more came."""

    section: str
    what: str
    cases: int = 0
    found: dict[str, Finding] = field(default_factory=dict)
    broken: str = ""
    skipped: str = ""
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """`Verdict.OK` only if every case was looked at that could be, and nothing is wrong."""
        if self.broken or any(finding.wrong for finding in self.found.values()):
            return Verdict.FAIL
        if not self.skipped and len(self.found) < max(1, self.cases):
            return Verdict.UNFINISHED
        looked = [finding for finding in self.found.values() if not finding.skipped]
        return Verdict.OK if looked else Verdict.SKIPPED

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        rows = [{"what": name, **finding.as_json()} for name, finding in self.found.items()]
        head = {key: getattr(self, key) for key in ("section", "what", "cases", "broken", "skipped", "seconds")}
        return {**head, "verdict": str(self.verdict), "rows": rows}


def look_at(cases: Sequence[Case], until: float, clock: Callable[[], float] = time.monotonic) -> Iterator[tuple[str, Finding | None]]:
    """Yield the name of each case before it is looked at, with ``None``, and again with what it found; none is begun after ``until``."""
    for case in cases:
        if clock() > until:
            return
        yield case.name, None
        try:
            finding = case.look()
        except Exception as error:
            finding = Finding(wrong=_said(error))
        yield case.name, finding
        if "CUDA error" in finding.wrong:
            # A device that has failed once gives the same answer to all that comes after.
            return


def _said(error: Exception) -> str:
    """An exception in one line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
