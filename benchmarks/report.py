"""What all benchmarks share: a table on standard output and a JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def report(name: str, rows: Sequence[Mapping[str, Any]], output: Path | None) -> None:
    """Print ``rows`` as a table and write them, with the machine, to ``output``."""
    header = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[cell(row.get(key, "")) for key in header] for row in rows]
    widths = [max(len(line[n]) for line in [header, *cells]) for n in range(len(header))]
    for line in [header, ["-" * w for w in widths], *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if output is not None:
        machine = {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()}
        output.write_text(json.dumps({"benchmark": name, "machine": machine, "rows": list(rows)}, indent=2) + "\n")


def cell(value: Any) -> str:
    """A value as it stands in a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def processor() -> str:
    """The processor's name, as the operating system gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
