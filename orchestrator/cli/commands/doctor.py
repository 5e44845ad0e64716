"""``orchestrate doctor``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from orchestrator.cli.options import address_option, json_option, print_json, tracking_option
from orchestrator.errors import OrchestratorError

LOW_DISK = 2 << 30


@dataclass(frozen=True)
class Check:
    """One thing looked at: its name, whether it works, and what was found or is to be done."""

    name: str
    ok: bool
    found: str


@click.command("doctor")
@address_option
@tracking_option
@json_option
def command(address: str | None, tracking_uri: str | None, as_json: bool) -> None:
    """Try what a sweep needs on this machine: versions, cores, GPUs, disk, Ray, MLflow. Exits with 3 if something does not work.

    \b
    Example:
      orchestrate doctor
      orchestrate doctor --address 10.0.0.5:6379 --tracking-uri http://10.0.0.5:5000
    """
    checks = []
    for check in _checks(address, tracking_uri):
        checks.append(check)
        if not as_json:
            click.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.found}")
    if as_json:
        print_json([asdict(check) for check in checks])
    raise click.exceptions.Exit(0 if all(check.ok for check in checks) else 3)


def _checks(address: str | None, tracking_uri: str | None) -> Iterator[Check]:
    names = ("orchestrate", "torch", "ray", "mlflow", "numpy", "pydantic")
    yield Check("versions", True, f"Python {platform.python_version()}, " + ", ".join(f"{n} {_version(n)}" for n in names))
    yield Check("cores", True, f"{os.cpu_count()}, {_memory()} of memory")
    yield _attempt("torch", _torch)
    free = shutil.disk_usage(Path.cwd()).free
    yield Check(
        "disk",
        free >= LOW_DISK,
        f"{free / 2**30:.1f} GiB free here" + ("" if free >= LOW_DISK else ": make room, or change to another folder"),
    )
    yield _attempt("mlflow", lambda: _mlflow(tracking_uri))
    yield _attempt("ray", lambda: _ray(address))


def _attempt(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except OrchestratorError as error:
        return Check(name, False, str(error))
    except Exception as error:  # a broken installation can raise anything; the report goes on
        return Check(name, False, f"{type(error).__name__}: {error}")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _memory() -> str:
    import psutil

    return f"{psutil.virtual_memory().total / 2**30:.1f} GiB"


def _torch() -> str:
    import torch

    if not torch.cuda.is_available():
        return "computes on the CPU; sees no GPU"
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return "sees " + ", ".join(f"{d.name} ({d.total_memory / 2**30:.0f} GiB)" for d in devices)


def _mlflow(tracking_uri: str | None) -> str:
    """Reach the store; a database that does not exist yet is tried in a folder of its own, so that looking creates nothing."""
    from orchestrator.tracking.preflight import check
    from orchestrator.tracking.store import open_store
    from orchestrator.tracking.uris import redact, resolve, sqlite_path

    resolved = resolve(tracking_uri)
    check(resolved)
    path = sqlite_path(resolved)
    if path is not None and not path.exists():
        return f"{redact(resolved)} would be created by the first sweep"
    return f"{open_store(tracking_uri).display} answers"


def _ray(address: str | None) -> str:
    from orchestrator.cluster.connection import Cluster

    with Cluster.connect(address) as cluster:
        where = "an embedded cluster starts" if cluster.address == "local" else f"{cluster.address} answers"
        return f"{where}: {cluster.cpus:g} cores, {cluster.gpus:g} GPUs, {len(cluster.nodes)} nodes"
