"""Commits that grids lie in: told by Git where it is at hand, and never waited for."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.cluster.jobs import order_for
from orchestrator.git import Commit, commit_of
from orchestrator.grid import load_grid
from orchestrator.options import Options
from orchestrator.storage.base import LocalStorage
from orchestrator.sweeps.found import Found
from orchestrator.sweeps.submit import _Beginning, recording_of
from orchestrator.tracking import layout
from tests.grid.test_errors import GOOD


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A grid in a work tree, below its top, with one commit."""
    folder = tmp_path / "tree" / "grids"
    folder.mkdir(parents=True)
    (folder / "grid.yaml").write_text("name: x\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x")
    return folder


def git(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, env=environment).stdout.strip()


def test_a_grid_as_it_was_committed_is_clean_and_a_changed_one_is_not(tree: Path) -> None:
    head = git(tree, "rev-parse", "HEAD")
    assert commit_of(tree / "grid.yaml", 60) == Commit(head, dirty=False)
    # What Git does not track changes nothing, unless it is the grid.
    (tree / "other.yaml").write_text("name: y\n")
    assert commit_of(tree / "grid.yaml", 60) == Commit(head, dirty=False)
    assert commit_of(tree / "other.yaml", 60) == Commit(head, dirty=True)
    (tree / "grid.yaml").write_text("name: z\n")
    assert commit_of(tree / "grid.yaml", 60) == Commit(head, dirty=True)


def test_names_of_any_encoding_are_no_trouble(tree: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (tree / name).write_text("x")
    git(tree, "add", ".")
    git(tree, "config", "core.quotePath", "false")
    assert commit_of(tree / "grid.yaml", 60) == Commit(git(tree, "rev-parse", "HEAD"), dirty=True)
    assert commit_of(tree / name, 60) == Commit(git(tree, "rev-parse", "HEAD"), dirty=True)


def test_where_there_is_no_commit_none_is_told(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    assert commit_of(tmp_path / "empty" / "grid.yaml", 60) is None
    git(tmp_path / "empty", "init", "-q")
    assert commit_of(tmp_path / "empty" / "grid.yaml", 60) is None
    assert commit_of(tmp_path / "nowhere" / "grid.yaml", 60) is None
    # A hook of Git's has variables that name another tree.
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "empty" / ".git"))
    assert commit_of(tree / "grid.yaml", 60) is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(tree / "grid.yaml", 60) is None


def test_nobody_waits_for_git(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert commit_of(tree / "grid.yaml", 0.1) is None


def test_a_repository_from_elsewhere_runs_nothing(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "run").chmod(0o755)
    git(tree, "config", "core.fsmonitor", str(tmp_path / "run"))
    assert commit_of(tree / "grid.yaml", 60) is not None
    assert not (tmp_path / "ran").exists()
    git(tree, "status")
    assert (tmp_path / "ran").exists(), "Git itself would have run it"


def test_a_sweep_that_is_sent_to_a_cluster_takes_its_commit_along(tree: Path, tmp_path: Path) -> None:
    (tree / "grid.yaml").write_text(GOOD)
    git(tree, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "x")
    expected = {layout.COMMIT: git(tree, "rev-parse", "HEAD"), layout.DIRTY: "false"}
    grid = load_grid(tree / "grid.yaml")
    options = Options("http://127.0.0.1:8265", "http://127.0.0.1:5000")
    sent = json.loads(json.dumps(asdict(order_for(grid, options, "0123abcd", as_json=False))))
    # As it is there, where nothing is under the path that it had.
    elsewhere = replace(grid, path="/nowhere/grid.yaml")

    def tags(options: Options) -> dict[str, str]:
        record = recording_of(elsewhere).as_json()
        beginning = _Beginning(elsewhere, options, None, LocalStorage(tmp_path / "storage"), record, Found())  # type: ignore[arg-type]
        found = beginning._tags(SimpleNamespace(address="auto"))  # type: ignore[arg-type]
        return {key: value for key, value in found.items() if key in expected}

    assert tags(Options(**sent["options"])) == expected
    assert tags(options) == {}
