"""What a node of a cluster says of itself. Its functions travel by value: this package may be missing there, or be another version."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

PACKAGES = ("orchestrate", "torch", "ray", "mlflow", "numpy", "pydantic")
"""Those whose versions count: of other ones, numbers, specs or messages differ."""
GPU_SECONDS = 60.0
"""How long a driver of GPUs may take to answer."""
GPUS = """
import json, torch
print(json.dumps([[torch.cuda.get_device_name(n), *torch.cuda.mem_get_info(n)] for n in range(torch.cuda.device_count())]))
"""


def versions() -> dict[str, str]:
    """Return the versions of Python and of `PACKAGES`; empty for what is not installed."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            # A build's own mark, as in 2.13.0+cpu, makes no other version.
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def gpus() -> list[list[Any]] | str:
    """Return name, free and total bytes of each GPU that torch sees, or why it sees none.

    Asked in a process of its own: a task that asks Ray for no GPU has them hidden from it.
    """
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", GPUS], env=environment, capture_output=True, text=True, timeout=GPU_SECONDS, check=True
        )
        found: list[list[Any]] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return f"their driver has not answered for {GPU_SECONDS:g} s"
    except (subprocess.CalledProcessError, ValueError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        return said[-1] if said else "torch fails"
    return found


def attempt(call: Callable[[], Any]) -> str:
    """Return what goes wrong in a call, in a line; empty if nothing does."""
    try:
        call()
    except Exception as error:  # whatever it may be on another machine, it is to be told
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ""


def look(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this node has, and what came of what it was ``asked`` to try.

    ``storage``: a URL, ``folder`` in it in which the file ``here`` lies, and this node's ``name``; ``store``: an MLflow store, and
    ``run`` to which to add a file.
    """
    found: dict[str, Any] = {"versions": versions(), "cores": os.cpu_count() or 0, "gpus": []}
    if asked["gpus"] or shutil.which("nvidia-smi"):
        found["gpus"] = gpus()
    if asked.get("storage"):

        def write() -> None:
            from orchestrator.storage.base import open_storage

            storage = open_storage(asked["storage"])
            found["shared"] = storage.read(f"{asked['folder']}/here") is not None
            # In a folder of its own nothing is written: workers send what they save through the driver.
            if found["shared"]:
                storage.write(f"{asked['folder']}/{asked['name']}", b"here")

        found["storage"] = attempt(write)
    if asked.get("store"):

        def upload() -> None:
            from orchestrator.tracking.store import open_store

            os.environ.update(asked["environment"])
            open_store(asked["store"]).attach(asked["run"], {f"{asked['name']}.txt": "here"})

        found["mlflow"] = attempt(upload)
    return found


def clock() -> float:
    """Return the time by this node's clock, in seconds."""
    return time.time()
