"""Sweeps after they have run: given to others, named, annotated and deleted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.commands import call, run

GRID = """\
name: kept
fixed:
  problem: {kind: matrix_completion, shape: [3, 3], file: seen.csv}
  factorization: {kind: deep_matrix}
  init: {kind: gaussian, scale: 0.3}
  optimizer: {kind: gd, lr: 0.1}
  stop: {steps: 100}
grid: {factorization.depth: [2, 3]}
seeds: 2
record: {points: 10, measures: [nuclear, singular_values]}
figures: {losses: {kind: trajectories, y: loss, color: factorization.depth, log: [x, y]}}
claims: {falls: {kind: monotone, of: loss, direction: falling}}
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, template: Path, cluster_address: str) -> tuple[Path, str]:
    """A folder in which a sweep was submitted, and its id."""
    work = tmp_path_factory.mktemp("kept") / "work"
    work.mkdir()
    (work / "grid.yaml").write_text(GRID)
    (work / "seen.csv").write_text("0,0,1.0\n0,1,0.5\n1,1,2.0\n")
    shutil.copy(template, work)
    done = run(work, "submit", "grid.yaml", "--json", "--address", cluster_address, "--workers", "1")
    assert done.returncode == 0, done.stderr
    return work, json.loads(done.stdout.splitlines()[-1])["sweep_id"]


@pytest.fixture
def folder(tmp_path: Path, template: Path) -> Path:
    """A folder with a store of the test's own in it."""
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(template, work)
    return work


def said(work: Path, sweep: str) -> dict[str, bytes | str]:
    """All that commands print and draw of a sweep."""
    found: dict[str, bytes | str] = {}
    for command in (["runs", "--format", "csv"], ["history"], ["verify"], ["verify", "--json"], ["status"]):
        done = call(work, command[0], sweep, *command[1:])
        assert done.returncode == 0, done.stderr
        found[" ".join(command)] = done.stdout
    for command in (["factors", "-o", "factors.npz"], ["figures", "-o", "drawn", "--format", "svg", "--format", "html"]):
        done = call(work, command[0], sweep, *command[1:])
        assert done.returncode == 0, done.stderr
    for path in (work / "factors.npz", *(work / "drawn").iterdir()):
        found[path.name] = path.read_bytes()
    return found


def test_a_sweep_travels_in_a_file_and_reads_the_same(kept: tuple[Path, str], folder: Path, cluster_address: str) -> None:
    work, sweep = kept
    done = call(work, "export", "kept", "-o", str(folder / "kept.zip"))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith(f"sweep {sweep} of kept: 4 of 4 trials in ")
    done = call(folder, "import", "kept.zip")
    assert done.returncode == 0, done.stderr
    assert f"sweep {sweep} of kept is in sqlite:///{folder}/mlflow.db now: 4 of 4 trials have an outcome" in done.stderr
    assert said(folder, "kept") == said(work, "kept")
    done = call(folder, "import", "kept.zip")
    assert (done.returncode, done.stderr.strip().splitlines()[1:]) == (0, [])
    assert "already (4 of 4 trials have an outcome): nothing was imported" in done.stderr
    # Its data file came along: it could be gone on with, and its grid finds all of its trials.
    (folder / "grid.yaml").write_text(GRID)
    shutil.copy(work / "seen.csv", folder)
    done = run(folder, "submit", "grid.yaml", "--json", "--address", cluster_address, "--workers", "1")
    assert json.loads(done.stdout.splitlines()[-1])["reused"] == 4, done.stderr


def test_what_cannot_be_imported_is_said(folder: Path) -> None:
    (folder / "x.zip").write_bytes(b"PK")
    for name, message in (("x.zip", "error: x.zip is no file of `orchestrate export`"), ("y.zip", "y.zip: there is no such file")):
        done = call(folder, "import", name)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
    done = call(folder, "export", "-o", "x.zip")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there are no sweeps" in done.stderr
    assert not json.loads(call(folder, "list", "--json").stdout)


def test_a_sweep_is_deleted_when_that_is_confirmed(kept: tuple[Path, str], folder: Path) -> None:
    work, sweep = kept
    assert call(work, "export", "kept", "-o", str(folder / "kept.zip")).returncode == 0
    assert call(folder, "import", "kept.zip").returncode == 0
    done = call(folder, "rm", sweep)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"sweep {sweep} of kept, started " in done.stderr
    assert done.stderr.rstrip().endswith("error: nothing was deleted: where nobody can be asked, --yes is needed")
    assert call(folder, "rm", "kept", "nosuch", "--yes").returncode == 2
    assert len(json.loads(call(folder, "list", "--json").stdout)) == 1
    done = call(folder, "rm", sweep[:5], "latest", "--yes")
    assert (done.returncode, done.stdout) == (0, f"sweep {sweep} of kept is deleted, with 5 runs of MLflow\n")
    assert "mlflow gc" in done.stderr
    assert json.loads(call(folder, "list", "--json").stdout) == []


def test_names_and_notes_are_shown(kept: tuple[Path, str], folder: Path) -> None:
    work, sweep = kept
    assert call(work, "export", "kept", "-o", str(folder / "kept.zip")).returncode == 0
    assert call(folder, "import", "kept.zip").returncode == 0
    plain = call(folder, "list").stdout.splitlines()
    assert plain[0].split() == ["sweep", "experiment", "status", "started", "trials", "outcomes"]
    done = call(folder, "rename", "latest", "odd one")
    assert (done.returncode, done.stderr) == (0, f"sweep {sweep} of kept is called 'odd one'\n")
    assert call(folder, "rename", "odd one", "kept").returncode == 2
    assert call(folder, "note", "odd one").stderr == f"sweep {sweep} has no note\n"
    for text in ("levels off", "\x1b[31mred"):
        assert call(folder, "note", "odd one", text).returncode == 0
    assert call(folder, "note", "odd one").stdout == "levels off\n\n\\x1b[31mred\n"
    header, row = call(folder, "list").stdout.splitlines()
    assert header.split() == ["sweep", "name", "experiment", "status", "started", "trials", "outcomes", "note"]
    assert row.split()[:3] == [sweep, "odd", "one"]
    assert row.endswith("levels off")
    status = call(folder, "status", "odd one").stdout
    assert status.startswith(f"sweep {sweep}, odd one, of kept: finished")
    assert "note: levels off\nnote: \nnote: \\x1b[31mred\n" in status
    (listed,) = json.loads(call(folder, "list", "--json").stdout)
    assert (listed["name"], listed["note"]) == ("odd one", "levels off\n\n\x1b[31mred")
    assert call(folder, "note", "odd one", "--replace").returncode == 2
    assert call(folder, "note", "odd one", "again", "--replace").returncode == 0
    assert call(folder, "note", "odd one").stdout == "again\n"
