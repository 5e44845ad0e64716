"""What the chaos suite takes for something left behind, and what not."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.storage.base import LocalStorage
from orchestrator.storage.folder import Description, SweepFolder
from orchestrator.storage.spool import Batch
from tests.chaos.comparison import in_storage

SAID = "results of sweep a1 wait in the storage, and its run in MLflow is gone: restore it, then `orchestrate sync`"


def folder_of(root: Path, sweep_id: str) -> SweepFolder:
    folder = SweepFolder(LocalStorage(root), "chaos", sweep_id)
    folder.describe(Description(sweep_id, "chaos", "http://127.0.0.1:1", "", "machine", {}), {})
    folder.begun("0" * 32)
    return folder


def test_results_of_a_sweep_that_the_database_has_lost_are_not_left_behind(tmp_path):
    folder_of(tmp_path, "a1").spool.add(Batch("pack-0000", (), {}))
    assert in_storage(tmp_path, {"b2"}, SAID) == []


@pytest.mark.parametrize(
    ("waits", "known", "said"),
    [(False, {"b2"}, SAID), (True, {"a1", "b2"}, SAID), (True, {"b2"}, "")],
    ids=["nothing waits", "the database has it", "nobody said so"],
)
def test_all_else_is(tmp_path, waits, known, said):
    folder = folder_of(tmp_path, "a1")
    if waits:
        folder.spool.add(Batch("pack-0000", (), {}))
    assert tmp_path / folder.name / "parent" in in_storage(tmp_path, known, said)


def test_what_lies_beside_them_is(tmp_path):
    folder_of(tmp_path, "a1").spool.add(Batch("pack-0000", (), {}))
    other = folder_of(tmp_path, "c3")
    assert all(path.is_relative_to(tmp_path / other.name) for path in in_storage(tmp_path, {"c3"}, SAID))
    assert tmp_path / other.name / "parent" in in_storage(tmp_path, {"c3"}, SAID)
