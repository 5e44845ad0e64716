"""What a sweep needs of this machine: versions, cores, GPUs, disk, MLflow."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from orchestrator.cluster.probe import gpus, versions
from orchestrator.diagnosis.check import Check, attempt

LOW_DISK = 2 << 30
"""Bytes that should be free."""


def check_machine(tracking_uri: str | None) -> Iterator[Check]:
    """Yield what is found on this machine. Creates nothing."""
    yield Check("versions", True, ", ".join(f"{name} {version or 'missing'}" for name, version in versions().items()))
    yield Check("cores", True, f"{os.cpu_count()}, {_memory()} of memory")
    yield _torch()
    free = shutil.disk_usage(Path.cwd()).free
    room = free >= LOW_DISK
    yield Check("disk", room, f"{free / 2**30:.1f} GiB free here" + ("" if room else ": make room, or change to another folder"))
    yield attempt("mlflow", lambda: _mlflow(tracking_uri))


def gpu_names(found: list[list[object]]) -> str:
    """Return GPUs as `orchestrator.cluster.probe.gpus` finds them, in words."""
    return ", ".join(f"{name} ({int(str(total)) / 2**30:.0f} GiB)" for name, _, total in found)


def _memory() -> str:
    import psutil

    return f"{psutil.virtual_memory().total / 2**30:.1f} GiB"


def _torch() -> Check:
    found = gpus()
    if isinstance(found, str):
        return Check("torch", False, found)
    return Check("torch", True, f"sees {gpu_names(found)}" if found else "computes on the CPU; sees no GPU")


def _mlflow(tracking_uri: str | None) -> str:
    """Reach the store. One that does not exist yet is not created."""
    from orchestrator.tracking.preflight import check
    from orchestrator.tracking.store import open_store
    from orchestrator.tracking.uris import redact, resolve, sqlite_path

    resolved = resolve(tracking_uri)
    check(resolved)
    path = sqlite_path(resolved)
    if path is not None and not path.exists():
        return f"{redact(resolved)} would be created by the first sweep"
    return f"{open_store(tracking_uri).display} answers"
