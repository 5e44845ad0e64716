"""What the documents say is so: every command and grid is there, every example loads."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest

import orchestrator
from orchestrator.cli.main import COMMANDS, cli
from orchestrator.grid import load_grid, parse_grid
from tests import ledger
from tests.chaos.record import LEDGER, Line, sums

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs/grid.md").read_text()
EXTENDING = (ROOT / "docs/extending.md").read_text()
RELIABILITY = (ROOT / "docs/reliability.md").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme_and_has_an_example(command):
    assert f"orchestrate {command}" in README, f"orchestrate {command} is not in the README: add it to the table of commands"
    found = cli.get_command(None, command)
    assert "Example:" in found.help
    assert f"orchestrate {command}" in found.help.split("Example:")[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_tested(command):
    texts = [path.read_text() for folder in ("cli", "cluster", "chaos", "sweeps") for path in (ROOT / "tests" / folder).glob("*.py")]
    assert any(f'"{command}"' in text for text in texts), f"no test runs `orchestrate {command}`: add one of what it does to tests/cli"


LARGE = {"phase-diagram"}
"""Grids of so many trials that to write them all down takes half a minute."""


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in LARGE else [])
        for path in sorted((ROOT / "configs").glob("*.yaml"))
    ],
)
def test_every_shipped_grid_loads_and_is_in_the_readme_with_its_size(path):
    count = len(load_grid(path).trials)
    row = next(line for line in README.splitlines() if line.startswith(f"| `configs/{path.name}`"))
    assert row.rstrip(" |").endswith(f"{count:,}")


def examples(text):
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    return [b for b in blocks if re.search(r"^name:", b, re.MULTILINE)]


@pytest.mark.parametrize("text", [*examples(README), *examples(GUIDE)])
def test_every_example_grid_loads(text):
    assert parse_grid(text).trials


@pytest.mark.parametrize(("name", "language"), [("models.py", "python"), ("grid.yaml", "yaml")])
def test_the_guide_to_own_kinds_shows_the_files_that_are_shipped(name, language):
    (shown,) = re.findall(rf"```{language}\n(.*?)```", EXTENDING, re.DOTALL)
    shipped = "".join(line for line in (ROOT / "configs/own" / name).open() if not line.startswith("#"))
    assert shown == shipped


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_no_more_is_said_of_the_chaos_suite_than_its_ledger_has():
    (said,) = re.findall(r"([\d,]+) schedules, ([\d,]+) disturbances .*?, ([\d,]+) violations", RELIABILITY, re.DOTALL)
    schedules, disturbances, violations = (int(number.replace(",", "")) for number in said)
    there = sums(ledger.read(LEDGER, Line))
    assert schedules <= there.schedules
    assert disturbances <= there.kills.total()
    assert violations >= there.violations, "a violation that is in the ledger is in the document, too"


def test_the_second_figure_has_each_start_of_its_sweep(tmp_path, monkeypatch):
    """That of rank three at order 4 starts from 1e-2 and 3e-2, others from 1e-3 and 1e-2."""
    trials = [{"trial_id": f"t{n}{s}", "init.scale": s, "problem.observed": n} for n in (100, 500) for s in (1e-2, 3e-2, None)]
    traces = pd.DataFrame([{"trial_id": trial["trial_id"], "step": 0, "error": 0.5, "cp_rank": 3.0} for trial in trials])
    monkeypatch.setattr(orchestrator, "load_runs", lambda _: pd.DataFrame(trials))
    monkeypatch.setattr(orchestrator, "load_history", lambda _: traces)
    monkeypatch.setattr(sys, "argv", ["figure2.py", "figure2-order4-rank3"])
    monkeypatch.chdir(tmp_path)
    left, _ = runpy.run_path(str(ROOT / "docs/figures/figure2.py"))["axes"]
    assert [text.get_text() for text in left.get_legend().get_texts()] == [
        "tensor factorization, init 0.01",
        "tensor factorization, init 0.03",
        "linear",
    ]
    assert (tmp_path / "figure2-order4-rank3.png").exists()
