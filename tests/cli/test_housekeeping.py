"""Sweeps after they have run: given to others, named, annotated and deleted."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from orchestrator.cli.options import INTERRUPTED
from orchestrator.tracking.read.queries import find_sweep
from orchestrator.tracking.store import open_store
from tests.cli.commands import call, run, variables
from tests.forked import Forked
from tests.held import GATE, LONG
from tests.processes import communicate, eventually

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
    for arguments in (("init", "-q"), ("add", "."), ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x")):
        subprocess.run(["git", *arguments], cwd=work, check=True)
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


def test_a_sweep_says_what_it_was_run_with(kept: tuple[Path, str]) -> None:
    work, sweep = kept
    tags = find_sweep(open_store(f"sqlite:///{work}/mlflow.db"), sweep).tags
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=work, check=True, capture_output=True, text=True).stdout.strip()
    assert (tags["mlflow.source.git.commit"], tags["orchestrate.git_dirty"]) == (head, "false")
    assert {name: tags[f"orchestrate.version.{name}"] for name in ("torch", "mlflow", "ray")} == {
        name: metadata.version(name) for name in ("torch", "mlflow", "ray")
    }
    assert tags["orchestrate.version.python"] == platform.python_version()


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


def test_a_sweep_that_runs_is_seen_from_elsewhere_until_it_ends(folder: Path, cluster_address: str) -> None:
    (folder / "long.yaml").write_text(LONG)
    gate = folder / "gate"
    environment = variables(folder) | {GATE: str(gate), "PYTHONPATH": os.environ["PYTHONPATH"]}
    with (folder / "log").open("w") as log:
        arguments = ["submit", "long.yaml", "--checkpoint-every", "0.1", "--address", cluster_address, "--workers", "2"]
        sweep = Forked(arguments, module="tests.held", cwd=folder, env=environment, stdout=log, stderr=log)

    def told() -> bool:
        assert sweep.poll() is None, (folder / "log").read_text()
        listed = json.loads(call(folder, "list", "--json").stdout)
        return bool(listed and listed[0]["progress"])

    eventually(told, lambda: (folder / "log").read_text())
    (listed,) = json.loads(call(folder, "list", "--json").stdout)
    assert (listed["progress"]["trials"], listed["progress"]["ended"], listed["progress"]["outcomes"]["exhausted"]) == (8, 0, 0)
    assert "0/8 trials" in call(folder, "list").stdout
    assert "in training: 0/8 trials" in call(folder, "status", "long").stdout
    # What it has said so far is there, too.
    eventually(lambda: "long: 8 trials to run in 2 packs" in call(folder, "logs", "long").stdout)
    with (folder / "shown").open("w") as shown:
        ended, follower = (
            Forked(["logs", "long", "--follow"], cwd=folder, env=variables(folder), **streams)
            for streams in ({"stdout": shown, "stderr": shown}, {})
        )
    eventually(lambda: "long: 8 trials to run" in (folder / "shown").read_text())
    ended.terminate()
    communicate(ended)
    assert ended.returncode == INTERRUPTED
    assert "the sweep goes on without this terminal" in (folder / "shown").read_text()
    gate.touch()
    communicate(sweep)
    assert sweep.returncode == 0, (folder / "log").read_text()
    out, errors = communicate(follower)
    assert follower.returncode == 0, errors
    assert out.count("long: 8 trials to run in 2 packs") == 1
    assert "is finished: `orchestrate status" in errors
    assert out == call(folder, "logs", "long").stdout
    assert "in training" not in call(folder, "status", "long").stdout
    (listed,) = json.loads(call(folder, "list", "--json").stdout)
    assert listed["progress"] is None
