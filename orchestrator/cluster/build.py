"""Which program this is: processes of one sweep have to be of the same build."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from functools import cache
from pathlib import Path

from orchestrator import liveness


@cache
def build() -> str:
    """Return what processes have in common that may be parts of one sweep: machine, installation, and code down to the last edit."""
    digest = hashlib.sha256(f"{liveness.machine()}\n{sys.prefix}\n{importlib.metadata.version('torch')}".encode())
    root = Path(__file__).parents[2]
    for package in ("orchestrator", "workloads"):
        for path in sorted((root / package).rglob("*.py")):
            status = path.stat()
            digest.update(f"{path} {status.st_mtime_ns} {status.st_size}\n".encode())
    return digest.hexdigest()[:12]
