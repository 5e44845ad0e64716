"""What sweeps that stopped short have left: none of it is lost, and none of it is there twice."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from orchestrator import liveness
from orchestrator.errors import LeaseLost, TrackingUnavailable, UsageError
from orchestrator.execution.progress import State
from orchestrator.options import Options
from orchestrator.scripting.display import Silent
from orchestrator.storage.base import LocalStorage
from orchestrator.storage.folder import Description, SweepFolder
from orchestrator.storage.spool import Batch
from orchestrator.sweeps.resume import Found, find, grid_of, settle, sync, to_take_up
from orchestrator.sweeps.run import Run
from orchestrator.sweeps.submit import _Beginning, _budget
from orchestrator.tracking import layout
from orchestrator.tracking.read import queries, tables
from orchestrator.tracking.read.runs import search, tag_is
from orchestrator.tracking.store import Store
from orchestrator.tracking.turns import ALONE
from orchestrator.tracking.write import parent_run
from orchestrator.tracking.write.parent import SweepInfo
from orchestrator.tracking.write.writer import SweepWriter
from tests import forked
from tests.cli.commands import call
from tests.stores import RECORD, trial_runs
from workloads.training.recording import Recording
from workloads.training.results import TrialResult
from workloads.trial import Trial, TrialSpec

RECORDING = Recording(tuple(RECORD["measures"]), RECORD["points"], RECORD["steps"])

MakeSweep = Callable[..., SweepInfo]
MakeResult = Callable[..., TrialResult]
ELSEWHERE = {layout.MACHINE: "another machine", layout.PROCESS: "1 #1", layout.HOST: "far"}
GONE = {layout.MACHINE: liveness.machine(), layout.PROCESS: f"{os.getpid()} #1", layout.HOST: "here"}


@dataclass
class Died:
    """Makes sweeps whose driver was killed: some trials are in MLflow, some in the spool, some nowhere."""

    store: Store
    storage: LocalStorage
    make_sweep: MakeSweep
    make_result: MakeResult

    def __call__(
        self, trials: str, written: str = "", spooled: str = "", where: dict[str, str] = GONE, **fields: Any
    ) -> tuple[SweepInfo, SweepWriter, SweepFolder]:
        sweep = self.make_sweep(trials, tags=where, **fields)
        folder = SweepFolder(self.storage, sweep.experiment, sweep.sweep_id)
        tag = layout.recording_tag(sweep.record)
        folder.describe(Description(sweep.sweep_id, sweep.experiment, self.store.display, tag, liveness.machine(), {}), {})
        writer = SweepWriter(self.store, sweep)
        writer.__enter__()
        folder.begun(writer.parent_run_id)
        writer.add("pack-0", [self.make_result(name) for name in written.split()])
        writer._queue.close()
        writer._thread.join()
        if spooled:
            specs = {row.trial_id: row.spec.flat() for row in sweep.trials}
            results = tuple(self.make_result(name) for name in spooled.split())
            folder.spool.add(Batch("pack-0", results, specs, writer._parent.shared_tags))
        return sweep, writer, folder


@pytest.fixture
def died(store: Store, tmp_path: Path, make_sweep: MakeSweep, make_result: MakeResult) -> Died:
    return Died(store, LocalStorage(tmp_path / "storage"), make_sweep, make_result)


def finished(store: Store, experiment: str) -> Counter[str]:
    """How many finished runs each trial has."""
    runs = search(store, [store.experiment(experiment)], f"attributes.status = 'FINISHED' AND {tag_is(layout.KIND, layout.TRIAL)}")
    return Counter(run.data.tags[layout.TRIAL_ID] for run in runs)


def names(sweep: SweepInfo) -> dict[str, Any]:
    """Its trials by id, as `find` wants them; what they are does not matter to it as long as there are no checkpoints."""
    return {row.trial_id: row for row in sweep.trials}


# ---------------------------------------------------------------------------------------------------------- deleted in MLflow


def test_a_trial_whose_run_was_deleted_is_run_and_written_again(died: Died, store: Store, make_result: MakeResult) -> None:
    sweep, writer, _ = died("a b c", written="a b")
    runs = trial_runs(store, writer.parent_run_id)
    store.client.delete_run(runs["a"].info.run_id)
    found = find(store, died.storage, sweep.experiment, ALONE, names(sweep), RECORDING, fresh=False)
    assert found.sweep is not None
    assert found.sweep.sweep_id == sweep.sweep_id
    assert set(found.finished) == {"b"}
    assert found.attempts == {"a": 2}
    again = replace(sweep, parent_run_id=writer.parent_run_id, attempt=2, attempts=found.attempts)
    with SweepWriter(store, again) as taken_up:
        taken_up.add("pack-0", [make_result("a"), make_result("c")])
    assert finished(store, sweep.experiment) == {"a": 1, "b": 1, "c": 1}


def test_what_has_been_computed_outlives_a_sweep_that_was_deleted(died: Died, store: Store) -> None:
    sweep, writer, folder = died("a b", spooled="a")
    idle = SweepFolder(died.storage, sweep.experiment, "00000000")
    idle.describe(replace(folder.description(), sweep_id="00000000"), {"digest": b"data"})  # type: ignore[type-var]
    store.client.delete_run(writer.parent_run_id)
    for _ in range(2):
        found = find(store, died.storage, sweep.experiment, ALONE, names(sweep), RECORDING, fresh=False)
        assert found.unknown == [sweep.sweep_id]
        assert "`orchestrate sync`" in " ".join(found.notes(2))
        found.clear(["a", "b"], store, sweep.experiment)
    assert len(folder.spool.names()) == 1
    assert idle.description() is None, "there was nothing in it"
    (said,) = sync(store, died.storage, None)
    assert (said.sweep_id, said.delivered) == (sweep.sweep_id, 0)
    store.client.restore_run(writer.parent_run_id)
    (said,) = sync(store, died.storage, None)
    assert (said.delivered, said.state) == (1, f"1 to be run: `orchestrate resume {sweep.sweep_id}`")
    assert finished(store, sweep.experiment) == {"a": 1}


def test_data_files_of_a_sweep_that_has_saved_nothing_yet_stay_when_another_one_is_complete(died: Died, store: Store) -> None:
    sweep, writer, folder = died("a b")
    folder.describe(folder.description(), {"digest": b"data"})  # type: ignore[arg-type]
    found = find(store, died.storage, sweep.experiment, ALONE, {}, RECORDING, fresh=False)
    assert [one.name for one in found.folders] == [folder.name]
    found.clear(["c"], store, sweep.experiment)
    assert folder.data_file("digest") == b"data"
    # A database without the sweep may have been put back: nobody will go on with it.
    store.client.delete_run(writer.parent_run_id)
    found.clear(["c"], store, sweep.experiment)
    assert folder.description() is None


def test_a_folder_that_was_deleted_by_hand_is_spoken_of_no_more(died: Died, store: Store) -> None:
    sweep, writer, folder = died("a b", spooled="a")
    store.client.delete_run(writer.parent_run_id)
    shutil.rmtree(Path(died.storage.url) / folder.name)
    found = find(store, died.storage, sweep.experiment, ALONE, names(sweep), RECORDING, fresh=False)
    assert (found.sweep, found.unknown, list(found.notes(2))) == (None, [], [])
    assert list(sync(store, died.storage, None)) == []


def test_a_sweep_that_is_known_by_its_files_alone_is_no_sweep_of_another_store(died: Died, store: Store) -> None:
    sweep, writer, folder = died("a", spooled="a")
    folder.describe(replace(folder.description(), tracking="http://another"), {})  # type: ignore[type-var]
    store.client.delete_run(writer.parent_run_id)
    assert settle(store, died.storage, sweep.experiment, ALONE) == ([], [])
    assert folder.spool.names()


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("status", "FINISHED", ": finished, started"),
        ("cancel", "FINISHED", "is complete"),
        ("logs --follow", "FINISHED", "is finished: `orchestrate status"),
        ("sync", "FAILED", "0 trials brought to MLflow, 1 to be run"),
    ],
)
def test_a_sweep_that_ends_while_it_is_looked_at_is_not_taken_for_a_killed_one(
    local: Store,
    make_sweep: MakeSweep,
    make_result: MakeResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    status: str,
    said: str,
) -> None:
    storage = LocalStorage(tmp_path / "storage")
    sweep, writer, _ = Died(local, storage, make_sweep, make_result)("a b", written="a")
    is_there = liveness.is_there

    def ending(process: str) -> bool:
        local.end(writer.parent_run_id, status)
        return is_there(process)

    monkeypatch.setattr(liveness, "is_there", ending)
    monkeypatch.setenv("ORCHESTRATE_STORAGE", str(storage.url))
    done = call(tmp_path, *command.split(), sweep.sweep_id, "--tracking-uri", local.uri)
    assert said in done.stdout + done.stderr
    assert "is gone" not in done.stdout + done.stderr
    assert local.status(writer.parent_run_id) == status


# --------------------------------------------------------------------------------------------------------- one run per trial


@pytest.mark.parametrize("where", [GONE, ELSEWHERE], ids=["gone", "elsewhere"])
def test_what_another_sweep_has_finished_meanwhile_is_not_written_again(
    died: Died, store: Store, make_sweep: MakeSweep, make_result: MakeResult, where: dict[str, str]
) -> None:
    sweep, writer, folder = died("a b c", written="a", spooled="b c", where=where)
    with SweepWriter(store, make_sweep("b")) as other:
        other.add("pack-0", [make_result("b")])
    (said,) = sync(store, died.storage, sweep.sweep_id)
    assert said.state == "it is complete"
    assert finished(store, sweep.experiment) == {"a": 1, "b": 1, "c": 1}
    assert store.status(writer.parent_run_id) == "FINISHED"
    assert folder.description() is None
    runs = tables.load_runs(store, queries.find_sweep(store, sweep.sweep_id))
    assert list(runs["outcome"]) == ["converged"] * 3
    assert set(tables.load_history(store, queries.find_sweep(store, sweep.sweep_id))["trial_id"]) == {"a", "b", "c"}


def test_another_recording_is_another_run(died: Died, store: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    sweep, _, _ = died("a", spooled="a")
    with SweepWriter(store, make_sweep("a", record=RECORD | {"measures": ["nuclear"]})) as other:
        other.add("pack-0", [make_result("a")])
    (said,) = sync(store, died.storage, sweep.sweep_id)
    assert said.delivered == 1
    assert finished(store, sweep.experiment) == {"a": 2}


class Slept:
    """A turn that another process has had since we had it first."""

    def check(self) -> int:
        return 1


class Lost:
    """A turn that another process has."""

    def check(self) -> int:
        raise LeaseLost("another process, on far, has taken over")


def test_whoever_waits_for_what_is_written_hears_that_nobody_writes_any_more(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult
) -> None:
    writer = SweepWriter(local, make_sweep("a"), turn=Lost())
    writer.__enter__()
    writer.add("pack-0", [make_result("a")])
    run = Run.__new__(Run)
    run.writer, run.state, run.reporter = writer, State(1, 0, 0), Silent()
    with pytest.raises(LeaseLost, match="has taken over"):
        run._see_written()


def test_a_writer_that_has_slept_looks_who_has_finished_its_trials(store: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    with SweepWriter(store, make_sweep("a b")) as other:
        other.add("pack-0", [make_result("a")])
    sweep = make_sweep("a b")
    with SweepWriter(store, sweep, turn=Slept()) as writer:
        writer.add("pack-0", [make_result("a"), make_result("b")])
    assert writer.done == 2
    assert finished(store, sweep.experiment) == {"a": 1, "b": 1}
    assert list(tables.load_runs(store, queries.find_sweep(store, sweep.sweep_id))["outcome"]) == ["converged"] * 2


def test_whoever_has_the_turn_takes_up_what_runs_nowhere(died: Died, store: Store) -> None:
    sweep, _, folder = died("a b", written="a", where=ELSEWHERE)
    stopped, _ = settle(store, died.storage, sweep.experiment, ALONE)
    assert [stopped_folder.name for stopped_folder in stopped] == [folder.name]
    tag = layout.recording_tag(sweep.record)
    found = to_take_up(store, sweep.experiment, sweep.digest, tag)
    assert found is not None
    assert (found.sweep_id, found.status) == (sweep.sweep_id, "KILLED")


def test_a_sweep_that_is_taken_up_keeps_its_order(died: Died, store: Store) -> None:
    sweep, _, _ = died("a b c", written="a")
    found = find(store, died.storage, sweep.experiment, ALONE, names(sweep), RECORDING, fresh=False)
    turned = SimpleNamespace(trials=list(reversed(sweep.trials)))
    for known, order in ((found, "a b c"), (Found(), "c b a")):
        beginning = _Beginning(turned, Options(), store, died.storage, RECORD, known)  # type: ignore[arg-type]
        assert [trial.trial_id for trial in beginning._trials()] == order.split()


def test_a_sweep_that_another_store_has_too_has_a_folder_of_its_own(died: Died, store: Store) -> None:
    sweep, _, folder = died("a b", written="a")
    found = find(store, died.storage, sweep.experiment, ALONE, names(sweep), RECORDING, fresh=False)
    grid = SimpleNamespace(name=sweep.experiment, files=SimpleNamespace(names={}, contents={}))
    with _Beginning(grid, Options(), store, died.storage, RECORD, found).folder() as own:  # type: ignore[arg-type]
        assert own.name == folder.name
    theirs = replace(folder.description(), tracking="http://another", identity="another")  # type: ignore[type-var]
    folder.describe(theirs, {})
    for _ in range(2):
        with _Beginning(grid, Options(), store, died.storage, RECORD, found).folder() as own:  # type: ignore[arg-type]
            assert own.name != folder.name
        assert folder.description() == theirs
    assert [one.name for one in settle(store, died.storage, sweep.experiment, ALONE)[0]] == [own.name]


# -------------------------------------------------------------------------------------------------------------- half a sweep


def failing(times: int) -> Callable[..., None]:
    """`put_files`, which fails at first."""
    put, left = parent_run.put_files, [times]

    def fail(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError("500 Internal Server Error")
        put(*arguments)

    return fail


def test_a_hiccup_while_a_sweep_begins_does_not_end_it(store: Store, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent_run, "FILES_WAITS", (0.0, 0.0))
    monkeypatch.setattr(parent_run, "put_files", failing(2))
    with SweepWriter(store, make_sweep("a")) as writer:
        pass
    assert store.read(writer.parent_run_id, layout.GRID_FILE) == b"name: x\n"


def test_a_sweep_whose_files_cannot_be_kept_does_not_begin(store: Store, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep("a")
    monkeypatch.setattr(parent_run, "FILES_WAITS", (0.0, 0.0))
    monkeypatch.setattr(parent_run, "put_files", failing(3))
    with pytest.raises(TrackingUnavailable, match="500"):
        SweepWriter(store, sweep).__enter__()
    assert not queries.list_sweeps(store, sweep.experiment)


def test_half_a_sweep_is_completed_by_whoever_takes_it_up(
    store: Store, make_sweep: MakeSweep, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep("a")
    with monkeypatch.context() as broken:
        broken.setattr(parent_run, "put_files", lambda *_: None)
        writer = SweepWriter(store, sweep)
        writer.__enter__()
    with SweepWriter(store, replace(sweep, parent_run_id=writer.parent_run_id, attempt=2)) as taken_up:
        taken_up.add("pack-0", [make_result("a")])
    assert store.read(writer.parent_run_id, layout.GRID_FILE) == b"name: x\n"
    assert store.read(writer.parent_run_id, layout.PLAN_FILE)
    assert list(tables.load_runs(store, queries.find_sweep(store, sweep.sweep_id))["outcome"]) == ["converged"]


GRID = """
name: {name}
fixed:
  problem: {{kind: matrix_completion, file: data.npz}}
  factorization: {{kind: deep_matrix, depth: 2}}
  init: {{kind: gaussian, scale: 0.1}}
  optimizer: {{kind: gd, lr: 0.1}}
  stop: {{steps: 10}}
"""


def test_resume_refuses_data_that_has_changed(local: Store, experiment: str, make_sweep: MakeSweep, tmp_path: Path) -> None:
    from orchestrator.grid import parse_grid

    def data(seed: int) -> None:
        observed = {"indices": np.array([[0, 1], [1, 0]]), "values": np.array([1.0, 2.0])}
        np.savez(tmp_path / "data.npz", target=np.random.default_rng(seed).standard_normal((2, 2)), **observed)

    data(0)
    text = GRID.format(name=experiment)
    grid = parse_grid(text, str(tmp_path / "grid.yaml"), tmp_path, ())
    trials = grid.trials
    rows = [replace(make_sweep("x").trials[0], trial_id=trial.trial_id, spec=trial.spec) for trial in trials]
    tags = GONE | {layout.GRID: str(tmp_path / "grid.yaml"), layout.OVERRIDES: "[]"}
    with SweepWriter(local, replace(make_sweep("x"), grid_text=text, trials=rows, tags=tags)) as writer:
        writer.close("KILLED")
    sweep = queries.find_sweep(local, writer.sweep_id)
    storage = LocalStorage(tmp_path / "storage")
    assert [trial.trial_id for trial in grid_of(local, storage, sweep).trials] == [trial.trial_id for trial in trials]
    data(1)
    with pytest.raises(UsageError, match="has other trials now"):
        grid_of(local, storage, sweep)
    done = forked.run(["resume", writer.sweep_id, "--tracking-uri", local.uri, "--storage", storage.url], cwd=tmp_path, env=os.environ)
    assert done.returncode == 2
    assert "a data file has changed" in done.stderr


# ------------------------------------------------------------------------------------------------------------------ liveness


def test_a_process_is_told_by_its_start_whatever_becomes_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    name = liveness.process()
    number, _, ticks = name.partition(" #")
    since_boot = psutil.Process(int(number)).create_time() - psutil.boot_time()
    assert int(ticks) / os.sysconf("SC_CLK_TCK") == pytest.approx(since_boot, abs=2)
    assert liveness.is_there(name)
    # As if the clock had been set: what psutil tells of starts then moves with it.
    start = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: start(self) + 3600)
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 3600)
    assert liveness.is_there(name)
    assert not liveness.is_there(f"{number} #{int(ticks) + 1}")


# ------------------------------------------------------------------------------------------------------------- what is left


def test_time_left_is_not_told_where_only_time_is_bounded(make_spec: Callable[..., TrialSpec]) -> None:
    steps, seconds = Trial("a", make_spec(stop={"steps": 100})), Trial("b", make_spec(stop={"seconds": 10}))
    assert _budget([steps, steps]) == 200
    assert _budget([steps, seconds]) == 0
