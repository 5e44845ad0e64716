"""What is said about the machine and the sections: markdown for a reader, JSON for programs."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cases import Report, Verdict
from benchmarks.report import cell, processor


def machine(device: torch.device) -> dict[str, Any]:
    """The device and what drives it."""
    try:
        warp = importlib.metadata.version("warp-lang")
    except importlib.metadata.PackageNotFoundError:
        warp = "not installed: the fused engine is left out"
    found = {"python": platform.python_version(), "torch": torch.__version__, "warp": warp, "processor": processor()}
    if device.type != "cuda":
        return {"device": "cpu", **found}
    has = torch.cuda.get_device_properties(device)
    return {
        "device": has.name,
        "memory, GB": has.total_memory / 1e9,
        "multiprocessors": has.multi_processor_count,
        "capability": f"{has.major}.{has.minor}",
        "cuda": torch.version.cuda,
        **found,
    }


def markdown(about: Mapping[str, Any], reports: Sequence[Report]) -> str:
    """A table of verdicts, then one a section."""
    lines = ["# One device, section by section", "", ", ".join(f"{key} {cell(value)}" for key, value in about.items()), ""]
    lines += _table([{"section": r.section, "verdict": r.verdict, **_counts(r), "seconds": r.seconds} for r in reports])
    for report in reports:
        lines += ["", f"## {report.section}: {report.verdict}", "", report.what, ""]
        if report.broken or report.skipped:
            lines += [report.broken or f"Skipped: {report.skipped}.", ""]
        rows = [
            {"what": name, **finding.values, **{key: said for key in ("wrong", "skipped") if (said := getattr(finding, key))}}
            for name, finding in report.found.items()
        ]
        lines += _table(rows)
    return "\n".join(lines) + "\n"


def write(path: Path, about: Mapping[str, Any], reports: Sequence[Report]) -> None:
    """Write markdown to ``path``, and JSON beside it."""
    path.write_text(markdown(about, reports))
    found = {"benchmark": "gpu", "machine": dict(about), "sections": [report.as_json() for report in reports]}
    path.with_suffix(".json").write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")


def summary(report: Report) -> str:
    """A section in a line, and a line for each thing that is wrong."""
    counts = ", ".join(f"{count} {key}" for key, count in _counts(report).items() if count)
    why = report.broken or report.skipped
    lines = [f"{report.section}: {report.verdict} ({counts or 'nothing looked at'}; {report.seconds:.0f} s)" + (f": {why}" if why else "")]
    lines += [f"  {Verdict.FAIL}  {name}: {finding.wrong}" for name, finding in report.found.items() if finding.wrong]
    return "\n".join(lines)


def _counts(report: Report) -> dict[str, int]:
    found = report.found.values()
    wrong, skipped = sum(bool(f.wrong) for f in found), sum(bool(f.skipped) for f in found)
    return {"ok": len(found) - wrong - skipped, "wrong": wrong, "skipped": skipped, "not reached": max(0, report.cases - len(found))}


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    header = list(dict.fromkeys(key for row in rows for key in row))
    if not header:
        return []
    cells = [[cell(row.get(key, "")).replace("|", "\\|") for key in header] for row in rows]
    return [f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *cells]]
