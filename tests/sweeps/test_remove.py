"""Sweeps that are deleted: what goes with them, and that other sweeps keep what they reuse, for good."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.tracking._tracking_service.utils import _get_store
from sqlalchemy import create_engine, make_url, text

from orchestrator import liveness
from orchestrator.errors import BusyError, UsageError
from orchestrator.grid.traced import Need, Traced
from orchestrator.storage.archive import Archive
from orchestrator.storage.base import LocalStorage
from orchestrator.storage.detail import Detail
from orchestrator.storage.folder import Description, SweepFolder
from orchestrator.sweeps.remove import prepare, remove
from orchestrator.sweeps.share import export_sweep
from orchestrator.tracking import layout
from orchestrator.tracking.read.factors import load_factors
from orchestrator.tracking.read.queries import SweepSummary, find_finished, find_sweep, list_sweeps
from orchestrator.tracking.read.results import Source
from orchestrator.tracking.read.tables import load_history, load_runs, lost
from orchestrator.tracking.store import Store
from orchestrator.tracking.sweep_file import SweepFile
from orchestrator.tracking.turns import experiment_turn
from orchestrator.tracking.uris import is_http
from orchestrator.tracking.write.delivery import complete, take
from orchestrator.tracking.write.edits import children, delete_runs
from orchestrator.tracking.write.parent import SweepInfo
from orchestrator.tracking.write.removal import Reuse, _take_over, hand_over, reused_by_others
from orchestrator.tracking.write.traces import parquet_bytes, with_reused
from orchestrator.tracking.write.writer import SweepWriter
from tests.servers import mlflow_server
from tests.sharing import shared
from tests.stores import NEEDS_POSTGRESQL, trial_runs
from workloads.training.results import TrialResult
from workloads.training.trial_state import Outcome

MakeSweep = Callable[..., SweepInfo]
MakeResult = Callable[..., TrialResult]
LARGE = {"W1": np.random.default_rng(0).standard_normal((100, 100))}


@pytest.fixture(scope="module")
def server(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of these tests' own: what all sweeps of a store reuse is read before one is deleted, and others have many."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template, folder / "mlflow.db")
    with mlflow_server(folder, f"sqlite:///{folder}/mlflow.db") as started:
        yield started.uri


@pytest.fixture(scope="module")
def database() -> str:
    """A database of these tests' own: in the one that tests share are sweeps whose files only a server can read."""
    uri = make_url(shared("database"))
    with create_engine(uri, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("CREATE DATABASE removals"))
    return uri.set(database="removals").render_as_string(hide_password=False)


def write(store: Store, sweep: SweepInfo, *results: TrialResult) -> SweepSummary:
    counts = {outcome.value: sum(result.outcome is outcome for result in results) for outcome in Outcome}
    with SweepWriter(store, sweep) as writer:
        writer.add("pack-0", results)
        writer.close("FINISHED", {"trials": len(sweep.trials), "reused": sweep.reused, **counts})
    return find_sweep(store, sweep.sweep_id)


def again(store: Store, sweep: SweepSummary) -> SweepSummary:
    return find_sweep(store, sweep.sweep_id)


def read(store: Store, sweep: SweepSummary) -> tuple[Any, ...]:
    """All that is read of a sweep."""
    found = again(store, sweep)
    runs, history = load_runs(store, found), load_history(store, found)
    factors = [(trial, name, factor.tobytes()) for trial, some in load_factors(store, found) for name, factor in some.items()]
    return (
        runs.to_csv(),
        history.to_csv(),
        sorted(factors),
        list(lost(runs, history)),
        found.trials,
        sum(found.counts.values()) + found.reused,
    )


@pytest.fixture
def detail(request: pytest.FixtureRequest) -> Detail:
    return Detail(request.param, 4)


HOLDINGS = [
    *(("bulk", "all"), ("bulk", "none"), ("client", "all")),
    pytest.param("server", "all", marks=pytest.mark.server),
    pytest.param("database", "all", marks=NEEDS_POSTGRESQL),
]
"""Kinds of stores, and which trials are runs in them."""


@pytest.fixture
def three(store: Store, make_sweep: MakeSweep, make_result: MakeResult, experiment: str, detail: Detail) -> list[SweepSummary]:
    """A sweep, and two that reuse some of its trials."""
    results = {name: make_result(name) for name in "abcdef"}
    if detail.runs == "all":
        results["c"] = make_result("c", Outcome.EXHAUSTED, factors=LARGE)
    first = make_sweep("a b c d", detail=detail)
    sweeps = [write(store, first, *(results[name] for name in "abcd"))]
    for names, own in (("e a c", "e"), ("c b f", "f")):
        reused = find_finished(store, experiment, set(names.split()), first.record)
        sweeps.append(write(store, make_sweep(names, reused=reused, detail=detail), results[own]))
    return sweeps


def gone_for_good(store: Store, *run_ids: str) -> None:
    """Delete runs as `mlflow gc` does, which takes half a minute to be imported."""
    for run_id in run_ids:
        shutil.rmtree(store.client.get_run(run_id).info.artifact_uri, ignore_errors=True)
        _get_store(store.uri)._hard_delete_run(run_id)


@pytest.mark.parametrize(("store", "detail"), HOLDINGS, indirect=True)
def test_what_others_reuse_becomes_theirs(store: Store, three: list[SweepSummary], detail: Detail, tmp_path: Path, experiment: str) -> None:
    first, second, third = three
    before = [read(store, sweep) for sweep in (second, third)]
    storage = str(tmp_path / "storage")
    found = prepare(store, first, [], storage)
    assert [(one.sweep.sweep_id, one.trials) for one in found.reused] == [(second.sweep_id, {"a", "c"}), (third.sweep_id, {"b", "c"})]
    # A trial that nobody reuses is what goes.
    assert remove(store, [first], storage, with_reused=False) == (2 if detail.runs == "all" else 1)
    assert [sweep.sweep_id for sweep in list_sweeps(store, experiment)] == [third.sweep_id, second.sweep_id]
    assert [read(store, sweep) for sweep in (second, third)] == before
    assert [again(store, sweep).reused for sweep in (second, third)] == [0, 1]
    if not is_http(store.uri):
        gone_for_good(store, first.parent_run_id)
        assert [read(store, sweep) for sweep in (second, third)] == before
    record = {"points": 200, "steps": None, "measures": ["nuclear"]}
    where = find_finished(store, experiment, set("abcdef"), record)
    assert {trial: source.parent_run_id for trial, source in where.items()} == {
        **dict.fromkeys("ace", second.parent_run_id),
        **dict.fromkeys("bf", third.parent_run_id),
    }
    if detail.runs == "all":
        assert set(trial_runs(store, second.parent_run_id)) == set("ace")
        tags = trial_runs(store, second.parent_run_id)["a"].data.tags
        assert tags[layout.SWEEP_ID] == second.sweep_id
        assert tags[layout.TRACE] in {file.path for file in store.client.list_artifacts(second.parent_run_id, layout.TRACES_FOLDER)}


@pytest.mark.parametrize(("store", "detail"), HOLDINGS[:4], indirect=True)
def test_with_what_others_reuse(store: Store, three: list[SweepSummary], tmp_path: Path, detail: Detail) -> None:
    first, second, _ = three
    assert remove(store, [first], str(tmp_path), with_reused=True) == (5 if detail.runs == "all" else 1)
    assert load_runs(store, again(store, second))["outcome"].tolist() == ["converged", "deleted", "deleted"]
    assert children(store, store.client.get_run(first.parent_run_id)) == []
    for run_id in (first.parent_run_id, *load_runs(store, again(store, second))["run_id"][1:].dropna()):
        assert store.client.get_run(run_id).info.lifecycle_stage == "deleted"


@pytest.mark.parametrize(("store", "detail"), HOLDINGS[:1], indirect=True)
def test_sweeps_that_go_together_keep_nothing_of_each_other(
    store: Store, three: list[SweepSummary], tmp_path: Path, detail: Detail
) -> None:
    first, second, third = three
    before = read(store, third)
    ids = [first.sweep_id, second.sweep_id]
    assert [one.trials for one in prepare(store, first, ids, str(tmp_path)).reused] == [{"b", "c"}]
    remove(store, [first, second], str(tmp_path), with_reused=False)
    assert read(store, third) == before
    assert set(trial_runs(store, third.parent_run_id)) == set("bcf")


@pytest.mark.parametrize(("store", "detail"), HOLDINGS[:1], indirect=True)
def test_sweeps_that_go_together_lose_nothing_that_one_which_stays_needs(
    store: Store, three: list[SweepSummary], make_sweep: MakeSweep, make_result: MakeResult, tmp_path: Path, detail: Detail
) -> None:
    first, second, _ = three
    other = write(store, replace(make_sweep("g"), experiment=f"{first.experiment} too"), make_result("g"))
    before = [read(store, sweep) for sweep in (*three, other)]
    with experiment_turn(store, other.experiment), pytest.raises(BusyError):
        remove(store, [first, second, other], str(tmp_path), with_reused=False)
    assert [read(store, sweep) for sweep in (*three, other)] == before

    def interrupt(sweep: SweepSummary, runs: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remove(store, [first, second], str(tmp_path), with_reused=True, removed=interrupt)
    assert second.sweep_id not in {sweep.sweep_id for sweep in list_sweeps(store)}
    assert read(store, first) == before[0]


def test_what_a_sweep_failed_at_and_another_has_finished_counts_once(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult, tmp_path: Path
) -> None:
    info = make_sweep("a b c")
    with SweepWriter(local, info) as writer:
        writer.add("pack-0", [make_result("a"), *(make_result(name, Outcome.FAILED, rows=0, error="no") for name in "bc")])
        writer.close("KILLED")
    sweep = find_sweep(local, info.sweep_id)
    first = write(local, make_sweep("b"), make_result("b"))
    write(local, make_sweep("c"), make_result("c"))
    found = find_finished(local, info.experiment, {"b", "c"}, info.record)
    take(local, local.client.get_run(sweep.parent_run_id), found)
    assert load_runs(local, again(local, sweep))["outcome"].tolist() == ["converged"] * 3
    assert complete(local, sweep) == 0
    assert (again(local, sweep).counts["converged"], again(local, sweep).counts["failed"], again(local, sweep).reused) == (1, 0, 2)
    remove(local, [first], str(tmp_path), with_reused=False)
    assert load_runs(local, again(local, sweep))["outcome"].tolist() == ["converged"] * 3
    assert (again(local, sweep).counts["converged"], again(local, sweep).counts["failed"], again(local, sweep).reused) == (2, 0, 1)


def test_what_is_known_at_ends_only_is_so_wherever_it_goes(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult, tmp_path: Path
) -> None:
    whole, least = make_result("a"), make_result("b")
    least.trace.values[:-1, 1] = np.nan
    info = make_sweep("a b", tags={layout.AT_ENDS: '["nuclear"]'})
    first = write(local, info, whole, least)

    def found(*columns: str) -> set[str]:
        need = Need("figures.curves", frozenset(), frozenset(columns))
        return set(
            find_finished(local, info.experiment, {"a", "b"}, info.record, Traced([need], {row.trial_id: row.spec for row in info.trials}))
        )

    assert (found(), found("nuclear"), found("det")) == ({"a", "b"}, {"a"}, {"a", "b"})
    reused = find_finished(local, info.experiment, {"a", "b"}, info.record)
    write(local, make_sweep("a b c", reused=reused), make_result("c"))
    remove(local, [first], str(tmp_path), with_reused=False)
    assert (found(), found("nuclear"), found("det")) == ({"a", "b"}, {"a"}, {"a", "b"})


def test_trials_that_are_given_away_one_after_the_other_are_all_there(local: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    info = make_sweep("a b")
    first = write(local, info, make_result("a"), make_result("b"))
    reused = find_finished(local, info.experiment, {"a", "b"}, info.record)
    second = write(local, make_sweep("a b c", reused=reused), make_result("c"))
    before = read(local, second)
    for trial in "ab":
        hand_over(local, first, [Reuse(again(local, second), frozenset(trial))])
    gone_for_good(local, first.parent_run_id)
    assert read(local, again(local, second)) == before


def test_a_trial_that_was_given_away_is_found_where_it_is_now(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult, tmp_path: Path
) -> None:
    info = make_sweep("a b")
    older = write(local, info, make_result("a"))
    first = write(local, make_sweep("b"), make_result("b"))
    found = find_finished(local, info.experiment, {"b"}, info.record)
    take(local, local.client.get_run(older.parent_run_id), found)
    remove(local, [first], str(tmp_path), with_reused=False)
    where = find_finished(local, info.experiment, {"b"}, info.record)
    assert where == {"b": Source(older.parent_run_id, found["b"].run_id)}
    # A sweep may have heard of it before.
    other = write(local, make_sweep("c b", reused=found), make_result("c"))
    (reuse,) = reused_by_others(local, older)
    assert (reuse.sweep.sweep_id, reuse.trials) == (other.sweep_id, {"b"})
    before = read(local, other)
    remove(local, [older], str(tmp_path), with_reused=False)
    assert read(local, other) == before


def test_older_lists_say_of_a_trial_that_is_reused_only_which_run_it_is() -> None:
    older = parquet_bytes(pa.table({"trial_id": ["a", "b", "c"], "reused_run_id": ["1", "2", None]}))
    assert [with_reused(older, taken)[1] for taken in ({}, {"a": None}, {"c": Source("3", None)})] == [2, 1, 3]


@pytest.mark.parametrize(("store", "detail"), HOLDINGS[:1], indirect=True)
def test_what_was_interrupted_can_be_done_again(
    store: Store, three: list[SweepSummary], tmp_path: Path, detail: Detail, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = three
    before = [read(store, sweep) for sweep in (second, third)]
    reused = reused_by_others(store, first)
    # Before any list of trials is written, when one is, and when all are.
    _take_over(store, first, second, store.client.get_run(second.parent_run_id), {"a", "c"})
    assert [one.trials for one in reused_by_others(store, first)] == [one.trials for one in reused]
    writes = iter([None])

    def once(*arguments: Any) -> None:
        next(writes)
        take(*arguments)

    monkeypatch.setattr("orchestrator.tracking.write.removal.take", once)
    with pytest.raises(StopIteration):
        hand_over(store, first, reused)
    monkeypatch.undo()
    assert [one.trials for one in reused_by_others(store, first)] == [reused[0].trials]
    hand_over(store, first, reused_by_others(store, first))
    assert reused_by_others(store, first) == []
    assert [set(load_runs(store, again(store, sweep))["trial_id"]) for sweep in (second, third)] == [set("eac"), set("cbf")]
    assert [again(store, sweep).reused for sweep in (second, third)] == [0, 1]
    remove(store, [first], str(tmp_path), with_reused=False)
    assert [read(store, sweep) for sweep in (second, third)] == before


@pytest.mark.parametrize(("store", "detail"), [HOLDINGS[0], HOLDINGS[3]], indirect=True)
def test_sweeps_of_other_experiments_keep_what_they_reuse(
    store: Store,
    three: list[SweepSummary],
    make_sweep: MakeSweep,
    make_result: MakeResult,
    tmp_path: Path,
    detail: Detail,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = three[0]
    reused = find_finished(store, first.experiment, {"d"}, {"points": 200, "steps": None, "measures": ["nuclear"]})
    other = write(store, replace(make_sweep("g d", reused=reused), experiment=f"{first.experiment} too"), make_result("g"))
    before = [read(store, sweep) for sweep in (*three[1:], other)]
    with experiment_turn(store, other.experiment), pytest.raises(BusyError):
        remove(store, [first], str(tmp_path), with_reused=False)
    remove(store, [first], str(tmp_path), with_reused=False)
    monkeypatch.setattr("orchestrator.tracking.read.results._FEW", 1)
    assert [read(store, sweep) for sweep in (*three[1:], other)] == before
    # What is deleted of it now is known to be, and can be given to others.
    found = again(store, other)
    export_sweep(store, found, tmp_path / "x.zip")
    with Archive(tmp_path / "x.zip") as archive:
        assert len(SweepFile(archive).runs) == 2
    assert remove(store, [found], str(tmp_path), with_reused=False) == 3
    assert not children(store, store.client.get_run(other.parent_run_id))


@pytest.mark.parametrize(("store", "detail"), HOLDINGS[:3], indirect=True)
@pytest.mark.parametrize("with_reused", [False, True])
def test_what_another_sweep_begins_to_reuse_while_it_is_deleted_is_there_as_it_was(
    store: Store,
    three: list[SweepSummary],
    make_sweep: MakeSweep,
    make_result: MakeResult,
    tmp_path: Path,
    detail: Detail,
    monkeypatch: pytest.MonkeyPatch,
    with_reused: bool,
) -> None:
    first, *others = three
    made: list[SweepSummary] = []

    def meanwhile(*arguments: Any) -> None:
        # All was read, and nothing is marked.
        if not made:
            reused = find_finished(store, first.experiment, {"d"}, {"points": 200, "steps": None, "measures": ["nuclear"]})
            late = replace(make_sweep("g d", reused=reused), experiment=f"{first.experiment} late")
            made.append(write(store, late, make_result("g")))
        delete_runs(*arguments)

    monkeypatch.setattr("orchestrator.tracking.write.removal.delete_runs", meanwhile)
    before = [read(store, sweep) for sweep in others]
    folder = SweepFolder(LocalStorage(tmp_path), first.experiment, first.sweep_id)
    folder.describe(Description(first.sweep_id, first.experiment, store.display, "", "", {}), {})
    with pytest.raises(UsageError, match=rf"{first.sweep_id} is not deleted: sweep \w+ of .* late has begun to reuse 1 trial of it"):
        remove(store, [first], str(tmp_path), with_reused=with_reused)
    (late,) = made
    kept = read(store, late)
    assert folder.description() is not None
    assert not load_runs(store, again(store, late))["outcome"].isin([layout.DELETED]).any()
    assert [read(store, sweep) for sweep in others] == before
    # And what is tried again is done.
    remove(store, [again(store, first)], str(tmp_path), with_reused=False)
    assert [read(store, sweep) for sweep in (*others, late)] == [*before, kept]
    assert folder.description() is None


def test_its_folder_goes_with_it(local: Store, make_sweep: MakeSweep, make_result: MakeResult, tmp_path: Path, experiment: str) -> None:
    storage = LocalStorage(tmp_path / "storage")
    info = make_sweep("a", tags={layout.STORAGE: storage.url})
    sweep = write(local, info, make_result("a"))
    folder = SweepFolder(storage, experiment, sweep.sweep_id)
    folder.describe(Description(sweep.sweep_id, experiment, local.display, "", liveness.machine(), {}), {"digest": b"data"})
    remove(local, [sweep], None, with_reused=False)
    assert folder.description() is None
    assert not storage.root.exists()
    assert list_sweeps(local, experiment) == []
    assert find_finished(local, experiment, {"a"}, info.record) == {}


def test_a_sweep_that_runs_is_refused(local: Store, make_sweep: MakeSweep, tmp_path: Path, experiment: str) -> None:
    here = {layout.MACHINE: liveness.machine(), layout.PROCESS: liveness.process(), layout.HOST: "here"}
    with SweepWriter(local, make_sweep("a", tags=here)) as writer:
        with pytest.raises(UsageError, match=r"is running on here: `orchestrate cancel"):
            remove(local, [find_sweep(local, writer.sweep_id)], str(tmp_path), with_reused=False)
        assert local.status(writer.parent_run_id) == "RUNNING"
    # Elsewhere, whoever runs has the turn.
    with SweepWriter(local, make_sweep("a", tags=here | {layout.MACHINE: "elsewhere"})) as writer:
        sweep = find_sweep(local, writer.sweep_id)
        with experiment_turn(local, experiment), pytest.raises(BusyError, match="another process, on this machine, is writing"):
            remove(local, [sweep], str(tmp_path), with_reused=False)
        assert local.status(writer.parent_run_id) == "RUNNING"


def test_many_runs_are_changed_as_few(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("orchestrator.tracking.write.edits._AT_ONCE", 2)
    names = "a b c d e"
    first = make_sweep(names)
    sweep = write(local, first, *(make_result(name) for name in names.split()))
    reused = find_finished(local, first.experiment, {"a", "b", "c"}, first.record)
    other = write(local, make_sweep("a b c", reused=reused))
    before = load_runs(local, again(local, other))
    assert remove(local, [sweep], str(tmp_path), with_reused=False) == 3
    pd.testing.assert_frame_equal(load_runs(local, again(local, other)), before)
    assert set(trial_runs(local, other.parent_run_id)) == {"a", "b", "c"}
