"""The program as tests run it: as a process of its own, or, where only what it says is asked, in this one."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.main import cli, run_command
from tests import forked, processes

GRID = """\
name: small
fixed:
  problem: {kind: matrix_completion, shape: [3, 3], target: {rank: 1}, observed: 5}
  factorization: {kind: deep_matrix, depth: 2}
  init: {kind: gaussian, scale: 0.1}
  optimizer: {kind: gd, lr: 0.1}
  stop: {steps: 20}
seeds: 3
record: {points: 10, measures: [nuclear, singular_values]}
"""
ELSEWHERE = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")
"""Variables that would send a sweep somewhere else."""


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program with ``arguments`` in ``folder``, in a process of its own."""
    return forked.run(arguments, cwd=folder, env=variables(folder) | environment)


def run_afresh(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `run` does, as a user starts it."""
    return processes.run([sys.executable, "-m", "orchestrator.cli.main", *arguments], cwd=folder, env=variables(folder))


def variables(folder: Path) -> dict[str, str]:
    """The environment of a program that works in ``folder``."""
    return {key: value for key, value in os.environ.items() if key not in ELSEWHERE} | {"XDG_STATE_HOME": str(folder.parent / "state")}


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `run` does and returns, in this process."""
    out, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, as_before(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        for name in ELSEWHERE:
            patch.delenv(name, raising=False)
        patch.setenv("XDG_STATE_HOME", str(folder.parent / "state"))
        patch.chdir(folder)
        code = ended([*arguments])
    said = [stream.buffer.getvalue().decode() for stream in (out, errors)]
    return subprocess.CompletedProcess(arguments, code, *said)


def ended(arguments: list[str]) -> int:
    """The exit code with which the program ends. What it says goes to where this process's output goes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["orchestrate", *arguments])
        return run_command(cli)


@contextlib.contextmanager
def as_before():
    """Undo what the program does to its process, which it has to itself otherwise."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    threshold = gc.get_threshold()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        gc.set_threshold(*threshold)
