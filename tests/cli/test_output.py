"""What is printed of what may come from anybody."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from orchestrator.tracking.store import Store
from orchestrator.tracking.write.parent import SweepInfo
from orchestrator.tracking.write.writer import SweepWriter
from tests.cli.commands import call, variables
from tests.processes import run
from tests.stores import experiment, local, make_result, make_spec, make_sweep
from workloads.training.results import TrialResult
from workloads.training.trial_state import Outcome

__all__ = ["experiment", "local", "make_result", "make_spec", "make_sweep"]

CLEARS = "\x1b[2J"
"""What terminals clear themselves at."""


def test_a_sign_that_a_terminal_does_not_have_is_written_out(tmp_path: Path) -> None:
    command, terminal = [sys.executable, "-m", "orchestrator.cli.main", "help"], {"PYTHONIOENCODING": "iso-8859-5"}
    done = run(command, cwd=tmp_path, env=variables(tmp_path) | terminal | {"PYTHONPATH": str(Path(__file__).parents[2])})
    assert (done.returncode, done.stderr) == (0, "")
    assert r" \xb7 " in done.stdout


def test_no_text_of_a_sweep_moves_the_cursor(
    local: Store, make_sweep: Callable[..., SweepInfo], make_result: Callable[..., TrialResult], tmp_path: Path
) -> None:
    error = f"Traceback:\n\tline {CLEARS}\nValueError: no{CLEARS}\n"
    sweep = make_sweep("a b")
    with SweepWriter(local, replace(sweep, experiment=f"x{CLEARS}"), log=lambda: f"one\ntwo{CLEARS}\n") as writer:
        writer.add("pack-0", [make_result("a"), make_result("b", Outcome.FAILED, rows=0, error=error)])
    said = {command: call(tmp_path, command, "--tracking-uri", local.uri) for command in ("list", "status", "logs", "runs")}
    assert [done.returncode for done in said.values()] == [0] * len(said)
    assert not any("\x1b" in done.stdout for done in said.values())
    assert r"x\x1b[2J" in said["list"].stdout
    assert r"        line \x1b[2J" in said["status"].stdout
    assert said["logs"].stdout == "one\ntwo\\x1b[2J\n"
    unknown = call(tmp_path, "runs", "nothing", "--tracking-uri", local.uri)
    assert (unknown.returncode, "\x1b" in unknown.stderr) == (2, False)
