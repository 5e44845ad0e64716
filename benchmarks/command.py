"""Runs `orchestrate submit` as a user would, as a process of its own, and looks at it from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Run:
    """A finished command: the object it printed last, the seconds from start to exit, and the most memory its process had, in bytes."""

    summary: dict[str, Any]
    seconds: float
    peak_bytes: int


def submit(grid: Path, folder: Path, **environment: str) -> Run:
    """Submit ``grid`` with a new SQLite store in ``folder``. Raises `RuntimeError` if a trial failed."""
    command = [sys.executable, "-m", "orchestrator.cli.main", "submit", str(grid), "--json", "--tracking-uri", store(folder)]
    # No rival draws or checks anything.
    command += ["--set", "figures={}", "--set", "claims={}"]
    began = time.perf_counter()
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = psutil.Popen(command, cwd=folder, stdout=out, stderr=err, env={**os.environ, **environment})
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory(process))
            time.sleep(0.05)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError((folder / "err").read_text())
    return Run(json.loads((folder / "out").read_text().splitlines()[-1]), seconds, peak)


def store(folder: Path) -> str:
    """The tracking URI of ``folder``."""
    return f"sqlite:///{folder}/mlflow.db"


def tune_seconds(trials: int, steps: int, folder: Path) -> float:
    """Seconds that Ray Tune takes for ``trials`` of ``steps`` on the 2x2 problem (`benchmarks.ray_tune`)."""
    command = [sys.executable, "-m", "benchmarks.ray_tune", str(trials), str(steps), str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.strip().splitlines()[-1])


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
