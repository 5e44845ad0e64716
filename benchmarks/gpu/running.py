"""A section in a process of its own: one that hangs, or breaks its device, costs no other section anything."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu import correctness, fractions, graphs, halving, limits, memory, speed
from benchmarks.gpu.cases import Report, Section, look_at

SECTIONS: dict[str, Section] = {
    section.name: section
    for section in (
        correctness.SECTION,
        limits.SECTION,
        speed.SECTION,
        memory.SECTION,
        halving.SECTION,
        graphs.SECTION,
        fractions.SECTION,
    )
}
GRACE = 30.0
"""Seconds that a case which is being looked at may go on after the time is up."""
START = 30.0
"""Seconds that a process may take to begin."""


def run(section: Section, device: torch.device, seconds: float, only: str = "", tell: Callable[[str], object] = lambda _: None) -> Report:
    """Look at the cases of ``section`` whose name contains ``only``, for about ``seconds``, in a process of its own; ``tell`` hears of each."""
    report, began = Report(section.name, section.what), time.monotonic()
    if section.needs_cuda and device.type != "cuda":
        report.skipped = section.needs_cuda
        return report
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, section.name, device, seconds, only))
    process.start()
    sender.close()
    try:
        report.broken = _hear(receiver, report, began + seconds + GRACE, tell)
    finally:
        if report.broken:
            process.kill()
        process.join()
    if not report.cases and not report.broken:
        report.skipped = f"no case has {only!r} in its name"
    report.seconds = time.monotonic() - began
    return report


def _hear(receiver: Any, report: Report, until: float, tell: Callable[[str], object]) -> str:
    """Add to ``report`` what a process says. Returns why it did not come to its end; empty if it did."""
    at = "its start"
    while True:
        # A process begins late on a busy machine, or where libraries are on a slow disk.
        patience = until + (0.0 if report.cases else START) - time.monotonic()
        if not receiver.poll(max(0.0, patience)):
            return f"still at {at} when the time was up"
        try:
            said = receiver.recv()
        except EOFError:
            return f"its process ended at {at}"
        match said:
            case None:
                return ""
            case int():
                report.cases = said
            case (name, None):
                at = name
            case (name, finding):
                report.found[name] = finding
                tell(f"{report.section}: {name}" + (f": {finding.wrong}" if finding.wrong else ""))


def _work(connection: Any, name: str, device: torch.device, seconds: float, only: str) -> None:
    """Send how many cases there are, each as `look_at` has it, and ``None`` at the end."""
    until = time.monotonic() + seconds
    cases = [case for case in SECTIONS[name].cases(device) if only in case.name]
    connection.send(len(cases))
    for looked in look_at(cases, until):
        connection.send(looked)
    connection.send(None)
