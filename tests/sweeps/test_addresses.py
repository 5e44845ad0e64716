"""A store under another address: what its sweeps have left is found all the same, and nothing of another store's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import liveness
from orchestrator.storage.base import LocalStorage
from orchestrator.storage.folder import Description, Owner, folder_of
from orchestrator.storage.spool import Batch
from orchestrator.sweeps.resume import settle, sync
from orchestrator.tracking import layout
from orchestrator.tracking.read.queries import find_sweep
from orchestrator.tracking.store import Store, open_store
from orchestrator.tracking.turns import ALONE
from orchestrator.tracking.write.parent import SweepInfo
from orchestrator.tracking.write.writer import SweepWriter
from tests.stores import NEEDS_POSTGRESQL
from workloads.training.results import TrialResult

OTHERS = [
    ("bulk", "?", lambda uri: f"{uri}?timeout=9"),
    pytest.param("server", "localhost", lambda uri: uri.replace("127.0.0.1", "localhost"), marks=pytest.mark.server),
    pytest.param("database", "localhost", lambda uri: uri.replace("127.0.0.1", "localhost"), marks=NEEDS_POSTGRESQL),
]
"""Kinds of stores, with what is in another address of theirs, and that."""


@pytest.mark.parametrize(("store", "part", "other"), OTHERS, indirect=["store"])
def test_what_a_sweep_has_left_is_found_by_another_address_of_its_store(
    store: Store,
    part: str,
    other: Callable[[str], str],
    make_sweep: Callable[..., SweepInfo],
    make_result: Callable[..., TrialResult],
    tmp_path: Path,
) -> None:
    info, storage = make_sweep("a b"), LocalStorage(tmp_path / "storage")
    with SweepWriter(store, info) as writer:
        writer.add("pack-0", [make_result("a")])
        writer.close("KILLED")
    owner = store.owner(info.experiment)
    folder = folder_of(storage, info.experiment, info.sweep_id, owner)
    told = (owner.address, "", liveness.machine(), {}, owner.identity)
    folder.describe(Description(info.sweep_id, info.experiment, *told), {})
    sweep = find_sweep(store, info.sweep_id)
    tags = {layout.PARENT: sweep.parent_run_id, layout.RECORD: sweep.tags[layout.RECORD]}
    folder.spool.add(Batch("pack-0", (make_result("b"),), {"b": {}}, tags))
    again = open_store(other(store.uri))
    assert part in again.display.removeprefix(store.display)
    assert again.owner(info.experiment) == Owner(again.display, owner.identity)
    assert folder_of(storage, info.experiment, info.sweep_id, again.owner(info.experiment)).name == folder.name
    assert [done.delivered for done in sync(again, storage, None)] == [1]
    assert find_sweep(store, info.sweep_id).counts["converged"] == 2
    assert settle(again, storage, info.experiment, ALONE) == ([], [])
    assert not (tmp_path / "storage").exists()


def test_two_stores_with_one_sweep_have_a_folder_each(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "storage")
    one, other = Owner("http://a:1", "server:1:5"), Owner("http://b:1", "server:1:6")
    for owner in (one, other):
        folder = folder_of(storage, "x", "0123abcd", owner)
        folder.describe(Description("0123abcd", "x", owner.address, "", "", {}, owner.identity), {})
    names = [folder_of(storage, "x", "0123abcd", owner).name for owner in (one, other)]
    assert len(set(names)) == 2
    # By other addresses, and, as of one that said nothing of what it is, by the one it had.
    for moved, name in zip((Owner("http://c", "server:1:5"), Owner("http://d", "server:1:6")), names, strict=True):
        assert folder_of(storage, "x", "0123abcd", moved).name == name
    assert folder_of(storage, "x", "0123abcd", Owner("http://a:1")).name == names[0]
    assert folder_of(storage, "x", "0123abcd", Owner("http://e", "server:2:5")).name not in names
    assert not Description("0123abcd", "x", "http://a:1", "", "", {}).is_of(Owner("http://b:1"))
