"""Sweeps as files: what another store takes in reads as it did where it came from, whole or not at all, and whoever made the file."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchestrator import liveness
from orchestrator.errors import UsageError
from orchestrator.extensions import use
from orchestrator.grid import load_grid, parse_grid
from orchestrator.storage.archive import Archive, writing
from orchestrator.storage.base import LocalStorage
from orchestrator.storage.detail import Detail
from orchestrator.storage.folder import Description, SweepFolder, folder_of
from orchestrator.storage.spool import Batch
from orchestrator.sweeps.own_code import code_files
from orchestrator.sweeps.remove import remove
from orchestrator.sweeps.resume import grid_of, settle, sync
from orchestrator.sweeps.share import UNRUNNABLE, Shared, export_sweep, import_sweep
from orchestrator.tracking import layout
from orchestrator.tracking.read.factors import load_factors
from orchestrator.tracking.read.queries import SweepSummary, find_finished, find_sweep, list_sweeps
from orchestrator.tracking.read.tables import failures, load_history, load_runs, lost
from orchestrator.tracking.store import Store, open_store
from orchestrator.tracking.turns import ALONE
from orchestrator.tracking.write.bulk import BulkRunWriter
from orchestrator.tracking.write.parent import SweepInfo, TrialRow
from orchestrator.tracking.write.removal import reused_by_others
from orchestrator.tracking.write.writer import SweepWriter
from tests.stores import IN_ORDER, sweeps_of, trial_runs
from workloads.extensions import activate
from workloads.training.results import TrialResult
from workloads.training.trial_state import Outcome, Trace
from workloads.trial import TrialSpec

MakeSweep = Callable[..., SweepInfo]
MakeResult = Callable[..., TrialResult]
GRID = "name: x\ntracking: {points: 20}\n"


@pytest.fixture
def origin(template: Path, tmp_path: Path) -> Store:
    """Where sweeps come from."""
    (tmp_path / "origin").mkdir()
    shutil.copy(template, tmp_path / "origin" / "mlflow.db")
    return open_store(f"sqlite:///{tmp_path / 'origin' / 'mlflow.db'}")


def write(store: Store, sweep: SweepInfo, *results: TrialResult, status: str = "FINISHED") -> SweepSummary:
    counts = {outcome.value: sum(result.outcome is outcome for result in results) for outcome in Outcome}
    with SweepWriter(store, sweep, log=lambda: "hello\n") as writer:
        writer.add("pack-0", results[:2])
        writer.add("pack-1", results[2:], {layout.ENGINE: "fused"})
        writer.close(status, {"trials": len(sweep.trials), "reused": sweep.reused, **counts}, {"seconds": 2.5})
    return find_sweep(store, sweep.sweep_id)


def two_sweeps(origin: Store, make_sweep: MakeSweep, make_result: MakeResult) -> tuple[SweepSummary, SweepSummary]:
    """Two sweeps at their origin, the second of which reuses trials of the first, with trials that ended in every way."""
    large = {"W1": np.random.default_rng(0).standard_normal((100, 100))}
    first = replace(make_sweep("a b x", history_points=20), grid_text=GRID)
    write(origin, first, *(make_result(name) for name in "abx"))
    reused = find_finished(origin, first.experiment, {"a", "b"}, first.record)
    tags = {layout.OVERRIDES: "[]", layout.VARIES: '["optimizer.lr", "seed"]'}
    second = replace(make_sweep("c a d e b f", reused=reused, history_points=20, tags=tags), grid_text=GRID)
    sweep = write(
        origin,
        second,
        make_result("c", Outcome.FAILED, rows=0, factors={}, error="Traceback\nValueError: no"),
        make_result("d", Outcome.DIVERGED, columns=("loss", "nuclear")),
        make_result("e", Outcome.EXHAUSTED, factors=large, checkpoints={"step-10": large}),
        make_result("f", trace=Trace(("loss", "det"), np.array([0, 7]), np.array([[1.0, np.nan], [np.inf, np.nan]]))),
    )
    origin.tag(sweep.parent_run_id, layout.NOTE, "what I saw")
    origin.tag(trial_runs(origin, sweep.parent_run_id)["d"].info.run_id, "mine", "yes")
    origin.attach(sweep.parent_run_id, {"figures/one.svg": "<svg/>", layout.CLAIMS_FILE: "[]"})
    return find_sweep(origin, first.sweep_id), find_sweep(origin, sweep.sweep_id)


@pytest.fixture
def shared(origin: Store, make_sweep: MakeSweep, make_result: MakeResult) -> tuple[SweepSummary, SweepSummary]:
    """`two_sweeps` of the test's own: in stores that tests share they are known once they have been taken in."""
    return two_sweeps(origin, make_sweep, make_result)


@dataclass(frozen=True)
class Kept:
    """`two_sweeps` and their files, made once and changed by no test."""

    origin: Store
    sweeps: tuple[SweepSummary, SweepSummary]
    files: tuple[Path, Path]


@pytest.fixture(scope="module")
def kept(template: Path, make_spec: Callable[..., TrialSpec], make_result: MakeResult, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("kept")
    shutil.copy(template, folder / "mlflow.db")
    origin = open_store(f"sqlite:///{folder / 'mlflow.db'}")
    sweeps = two_sweeps(origin, sweeps_of("kept", make_spec), make_result)
    files = (folder / "first.zip", folder / "second.zip")
    for sweep, file in zip(sweeps, files, strict=True):
        export_sweep(origin, sweep, file)
    return Kept(origin, sweeps, files)


def keeps_ids(store: Store) -> bool:
    """Whether ids of runs can be chosen."""
    return BulkRunWriter.fits(store.uri)


def read(store: Store, sweep_id: str, *, ids: bool = True) -> dict[str, Any]:
    """All that is read of a sweep, as it is printed, with or without the ``ids`` of runs."""
    sweep = find_sweep(store, sweep_id)
    runs, history = load_runs(store, sweep), load_history(store, sweep)
    assert list(lost(runs, history)) == []
    if not ids:
        runs = runs.drop(columns="run_id")
    return {
        "runs": runs.to_csv(index=False),
        "types": runs.dtypes.to_dict(),
        "history": history.to_csv(index=False),
        "factors": [(trial, name, factor.tobytes()) for trial, some in load_factors(store, sweep) for name, factor in some.items()],
        "failures": [(trial, text) for trial, _, text in failures(store, sweep)],
        "logs": store.texts(sweep.parent_run_id, layout.LOGS_FOLDER),
        **{name: store.read(sweep.parent_run_id, name) for name in ("grid.yaml", "plan.json", "claims.json", "figures/one.svg")},
    }


def of_trial(store: Store, run: Any) -> dict[str, Any]:
    """All that MLflow has of a trial's run that does not say where it is."""
    tags = {key: value for key, value in run.data.tags.items() if key not in (layout.PARENT, layout.SWEEP_ID, layout.TRACE, layout.FACTORS)}
    metrics = {
        name: [(m.value, m.timestamp, m.step) for m in store.client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics
    }
    files = sorted(file.path for file in store.client.list_artifacts(run.info.run_id))
    return {
        "tags": tags,
        "params": run.data.params,
        "metrics": json.dumps(metrics, sort_keys=True),
        "files": files,
        **{name: getattr(run.info, name) for name in ("status", "start_time", "end_time", "run_name", "user_id")},
    }


def alone(sweep: SweepSummary) -> dict[str, str]:
    """The tags of a sweep's run, but those that say where it is."""
    here = {layout.MACHINE, layout.PROCESS, layout.STORAGE, layout.JOB, layout.REUSED}
    return {key: value for key, value in sweep.tags.items() if key not in here} | {layout.NOTE: sweep.note}


def test_what_is_taken_in_reads_as_where_it_came_from(origin: Store, store: Store, shared: Any, tmp_path: Path, experiment: str) -> None:
    first, sweep = shared
    exported = export_sweep(origin, sweep, tmp_path / "x.zip")
    assert (exported.trials, exported.ended) == (6, 6)
    assert import_sweep(store, tmp_path / "x.zip") == exported
    assert read(store, sweep.sweep_id, ids=keeps_ids(store)) == read(origin, sweep.sweep_id, ids=keeps_ids(store))

    here = find_sweep(store, sweep.sweep_id)
    assert alone(here) == alone(sweep)
    assert (here.status, here.started, here.ended, here.experiment) == (sweep.status, sweep.started, sweep.ended, experiment)
    # Trials that it had reused are its own now.
    assert (here.trials, here.reused, sum(here.counts.values())) == (6, 0, 6)
    assert store.client.get_run(here.parent_run_id).data.metrics["sweep/seconds"] == 2.5
    theirs = trial_runs(origin, first.parent_run_id) | trial_runs(origin, sweep.parent_run_id)
    ours = trial_runs(store, here.parent_run_id)
    assert set(ours) == set("abcdef")
    for trial, run in ours.items():
        assert of_trial(store, run) == of_trial(origin, theirs[trial]), trial
    reusable = find_finished(store, experiment, set("abcdef"), {"points": 200, "steps": None, "measures": ["nuclear"]})
    assert set(reusable) == set("abdef")


@IN_ORDER
def test_what_varies_stands_first_in_what_was_taken_in(store: Store, kept: Kept) -> None:
    import_sweep(store, kept.files[1])
    here = find_sweep(store, kept.sweeps[1].sweep_id)
    assert [list(run.data.params)[:2] for run in trial_runs(store, here.parent_run_id).values()] == [["optimizer.lr", "seed"]] * 6


def test_a_sweep_that_is_there_stays_as_it_is(local: Store, kept: Kept, tmp_path: Path) -> None:
    (_, sweep), (_, file) = kept.sweeps, kept.files
    import_sweep(local, file)
    here = find_sweep(local, sweep.sweep_id)
    local.tag(here.parent_run_id, layout.NOTE, "mine")
    before = read(local, sweep.sweep_id)
    assert import_sweep(local, file) == Shared(sweep.sweep_id, sweep.experiment, 6, 6, known=True)
    assert import_sweep(kept.origin, file).known
    assert read(local, sweep.sweep_id) == before
    assert find_sweep(local, sweep.sweep_id).tags[layout.NOTE] == "mine"
    # And out of it comes the same file, but for the trials that are its own now.
    export_sweep(local, here, tmp_path / "y.zip")
    with Archive(file) as one, Archive(tmp_path / "y.zip") as other:
        # The order of a safetensors' header is by chance.
        names = [name for name in one.names if not name.endswith(".safetensors")]
        assert one.names == other.names
        assert [name for name in names if one.read(name) != other.read(name)] == ["trials.parquet"]


def test_what_was_interrupted_looks_unfinished_and_can_be_done_again(origin: Store, store: Store, shared: Any, tmp_path: Path) -> None:
    _, sweep = shared
    export_sweep(origin, sweep, tmp_path / "x.zip")

    def interrupt(done: int, count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_sweep(store, tmp_path / "x.zip", interrupt)
    begun = find_sweep(store, sweep.sweep_id)
    assert (begun.status, begun.ended) == ("RUNNING", None)
    assert load_runs(store, begun)["outcome"].isna().all()
    with pytest.raises(KeyboardInterrupt):
        import_sweep(store, tmp_path / "x.zip", interrupt)
    assert not import_sweep(store, tmp_path / "x.zip").known
    done = find_sweep(store, sweep.sweep_id)
    assert (done.parent_run_id, done.status) == (begun.parent_run_id, "FINISHED")
    assert layout.IMPORTING not in done.tags
    assert len(trial_runs(store, done.parent_run_id)) == 6
    assert read(store, sweep.sweep_id, ids=keeps_ids(store)) == read(origin, sweep.sweep_id, ids=keeps_ids(store))
    assert import_sweep(store, tmp_path / "x.zip").known


def test_one_that_was_begun_may_reuse_what_came_meanwhile(local: Store, kept: Kept) -> None:
    first, sweep = kept.sweeps
    files = kept.files

    def interrupt(done: int, count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_sweep(local, files[1], interrupt)
    begun = find_sweep(local, sweep.sweep_id)
    assert set(trial_runs(local, begun.parent_run_id)) == set("abcdef")
    local.tag(begun.parent_run_id, layout.PROCESS, "1 #1")
    import_sweep(local, files[0])
    assert import_sweep(local, files[1]).reused == 2
    done = find_sweep(local, sweep.sweep_id)
    assert (done.reused, sum(done.counts.values()), done.tags[layout.PROCESS]) == (2, 4, liveness.process())
    assert set(trial_runs(local, done.parent_run_id)) == set("cdef")
    here = find_sweep(local, first.sweep_id)
    # Whatever its tag says.
    local.tag(done.parent_run_id, layout.REUSED, "0")
    (reuse,) = reused_by_others(local, here)
    assert reuse.trials == {"a", "b"}


def test_one_that_was_begun_and_then_run_here_is_the_run_ones(
    local: Store, kept: Kept, make_sweep: MakeSweep, make_result: MakeResult
) -> None:
    (_, sweep), (_, file) = kept.sweeps, kept.files

    def interrupt(done: int, count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_sweep(local, file, interrupt)
    begun = find_sweep(local, sweep.sweep_id)
    own = {name: getattr(begun, name) for name in ("experiment", "sweep_id", "parent_run_id")}
    again = replace(make_sweep("c a d e b f"), **own, attempt=2)
    write(local, again, *(make_result(name) for name in "cadebf"))
    assert import_sweep(local, file).known
    assert load_runs(local, find_sweep(local, sweep.sweep_id))["outcome"].tolist() == ["converged"] * 6


def test_trials_of_a_sweep_that_is_here_are_reused_from_it(local: Store, kept: Kept) -> None:
    origin, (_, sweep) = kept.origin, kept.sweeps
    for file in kept.files:
        done = import_sweep(local, file)
    assert done.reused == 2
    here = find_sweep(local, sweep.sweep_id)
    assert (here.reused, sum(here.counts.values())) == (2, 4)
    assert set(trial_runs(local, here.parent_run_id)) == set("cdef")
    assert load_history(local, here).equals(load_history(origin, sweep))
    one, other = (load_runs(*where).drop(columns="run_id") for where in ((local, here), (origin, sweep)))
    pd.testing.assert_frame_equal(one, other)


def test_ids_of_runs_that_are_taken_are_chosen_anew(local: Store, kept: Kept) -> None:
    origin, (_, sweep), (_, file) = kept.origin, kept.sweeps, kept.files
    import_sweep(local, file)
    before = find_sweep(local, sweep.sweep_id)
    assert before.parent_run_id == sweep.parent_run_id
    for run in (*trial_runs(local, before.parent_run_id).values(), local.client.get_run(before.parent_run_id)):
        local.client.delete_run(run.info.run_id)
    assert not import_sweep(local, file).known
    after = find_sweep(local, sweep.sweep_id)
    assert after.parent_run_id != before.parent_run_id
    one, other = (load_runs(*where) for where in ((local, after), (origin, sweep)))
    assert not set(one["run_id"]) & set(other["run_id"])
    pd.testing.assert_frame_equal(one.drop(columns="run_id"), other.drop(columns="run_id"))
    assert load_history(local, after).equals(load_history(origin, sweep))


def test_a_sweep_keeps_its_trials_when_one_that_had_reused_them_came_first(local: Store, kept: Kept, tmp_path: Path) -> None:
    origin, (first, sweep) = kept.origin, kept.sweeps
    for file in reversed(kept.files):
        import_sweep(local, file)
    remove(local, [find_sweep(local, sweep.sweep_id)], str(tmp_path), with_reused=False)
    here = find_sweep(local, first.sweep_id)
    one, other = (load_runs(*where).drop(columns="run_id") for where in ((local, here), (origin, first)))
    pd.testing.assert_frame_equal(one, other)
    assert load_history(local, here).equals(load_history(origin, first))
    assert set(trial_runs(local, here.parent_run_id)) == set("abx")


def test_a_copy_leaves_the_folder_of_the_sweep_that_it_came_from(
    origin: Store, local: Store, make_sweep: MakeSweep, make_result: MakeResult, tmp_path: Path
) -> None:
    info, storage = make_sweep("a b"), LocalStorage(tmp_path / "storage")
    sweep = write(origin, info, make_result("a"), status="KILLED")
    folder = SweepFolder(storage, sweep.experiment, sweep.sweep_id)
    theirs = Description(sweep.sweep_id, sweep.experiment, origin.display, "", liveness.machine(), {})
    folder.describe(theirs, {})
    folder.spool.add(Batch("pack-0", (make_result("b"),), {"b": {}}, {layout.RECORD: sweep.tags[layout.RECORD]}))
    export_sweep(origin, sweep, tmp_path / "x.zip")
    import_sweep(local, tmp_path / "x.zip")
    copy = find_sweep(local, sweep.sweep_id)
    assert settle(local, storage, sweep.experiment, ALONE) == ([], [])
    assert [done.state for done in sync(local, storage, None)] == [f"1 batch waits: it is for {origin.display}"]
    own = folder_of(storage, sweep.experiment, sweep.sweep_id, local.owner(sweep.experiment))
    own.describe(replace(theirs, tracking=local.display), {})
    assert [one.name for one in settle(local, storage, sweep.experiment, ALONE)[0]] == [own.name]
    remove(local, [copy], storage.url, with_reused=False)
    assert own.description() is None
    assert folder.description() == theirs
    assert [done.delivered for done in sync(origin, storage, None)] == [1]
    assert folder.description() is None


@pytest.mark.parametrize("runs", ["sampled", "none"])
def test_trials_without_runs_are_taken_in_as_they_are(
    origin: Store, local: Store, make_sweep: MakeSweep, make_result: MakeResult, tmp_path: Path, runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.storage.detail.SAMPLE", 2)
    names = "a b c d e f"
    results = [make_result(name) for name in names.split()[:5]]
    sweep = write(origin, make_sweep(names, detail=Detail(runs, 6)), *results, status="KILLED")
    exported = export_sweep(origin, sweep, tmp_path / "x.zip")
    assert (exported.trials, exported.ended) == (6, 5)
    import_sweep(local, tmp_path / "x.zip")
    here = find_sweep(local, sweep.sweep_id)
    assert here.status == "KILLED"
    assert load_runs(local, here).equals(load_runs(origin, sweep))
    assert load_history(local, here).equals(load_history(origin, sweep))
    assert set(trial_runs(local, here.parent_run_id)) == set(trial_runs(origin, sweep.parent_run_id))


def test_one_that_was_taken_in_can_be_gone_on_with(
    origin: Store, local: Store, make_sweep: MakeSweep, make_result: MakeResult, tmp_path: Path
) -> None:
    info = make_sweep("a b c")
    sweep = write(origin, info, make_result("a"), make_result("b", Outcome.FAILED, rows=0, error="no"), status="KILLED")
    export_sweep(origin, sweep, tmp_path / "x.zip")
    import_sweep(local, tmp_path / "x.zip")
    here = find_sweep(local, sweep.sweep_id)
    again = replace(info, parent_run_id=here.parent_run_id, attempt=2, attempts={"b": 2})
    write(local, again, make_result("b"), make_result("c"))
    runs = load_runs(local, find_sweep(local, sweep.sweep_id))
    assert runs["outcome"].tolist() == ["converged"] * 3
    assert runs["run_id"][0] == load_runs(origin, sweep)["run_id"][0]


def test_a_sweep_that_runs_is_taken_in_as_one_that_was_interrupted(
    origin: Store, local: Store, make_sweep: MakeSweep, make_result: MakeResult, tmp_path: Path
) -> None:
    with SweepWriter(origin, make_sweep("a b")) as writer:
        export_sweep(origin, find_sweep(origin, writer.sweep_id), tmp_path / "x.zip")
    import_sweep(local, tmp_path / "x.zip")
    assert find_sweep(local, writer.sweep_id).status == "KILLED"


def test_the_grids_data_files_travel(origin: Store, local: Store, make_sweep: MakeSweep, tmp_path: Path, make_result: MakeResult) -> None:
    folder = tmp_path / "grids"
    folder.mkdir()
    (folder / "seen.csv").write_text("0,0,1.0\n1,1,2.0\n")
    text = (
        "name: x\nfixed:\n  problem: {kind: matrix_completion, shape: [3, 3], file: seen.csv}\n  factorization: {kind: deep_matrix, depth: 2}\n"
        "  init: {kind: gaussian, scale: 0.1}\n  optimizer: {kind: gd, lr: 0.1}\n  stop: {steps: 20}\nseeds: 2\n"
    )
    (folder / "grid.yaml").write_text(text)
    grid = load_grid(folder / "grid.yaml")
    rows = [TrialRow(trial.trial_id, trial.spec, "pack-0") for trial in grid.trials]
    info = replace(make_sweep(""), trials=rows, grid_text=text, tags={layout.GRID: str(folder / "grid.yaml"), layout.OVERRIDES: "[]"})
    sweep = write(origin, info, *(make_result(row.trial_id) for row in rows))
    told: list[str] = []
    export_sweep(origin, sweep, tmp_path / "x.zip", told.append)
    assert told == []
    (folder / "seen.csv").unlink()
    import_sweep(local, tmp_path / "x.zip")
    again = grid_of(local, LocalStorage(tmp_path / "storage"), find_sweep(local, sweep.sweep_id))
    assert [trial.trial_id for trial in again.trials] == [trial.trial_id for trial in grid.trials]
    export_sweep(origin, sweep, tmp_path / "y.zip", told.append)
    assert "cannot read seen.csv: No such file" in told[0]


def test_data_files_of_a_grid_that_needs_code_travel_without_it_being_run(
    origin: Store, local: Store, make_sweep: MakeSweep, tmp_path: Path, make_result: MakeResult
) -> None:
    (tmp_path / "seen.csv").write_text("0,0,1.0\n1,1,2.0\n")
    ran = tmp_path / "ran"
    code = f"from pathlib import Path\nfrom workloads import measure\nPath({str(ran)!r}).touch()\n@measure('gap')\ndef gap(x):\n    return x.loss\n"
    (tmp_path / "own.py").write_text(code)
    text = (
        "name: x\nneeds: own.py\nfixed:\n  problem: {kind: matrix_completion, shape: [3, 3], file: seen.csv}\n"
        "  factorization: {kind: deep_matrix, depth: 2}\n  init: {kind: gaussian, scale: 0.1}\n  optimizer: {kind: gd, lr: 0.1}\n"
        "  stop: {steps: 20}\nrecord: {measures: [gap]}\n"
    )
    use([str(tmp_path / "own.py")])
    grid = parse_grid(text, str(tmp_path / "grid.yaml"), tmp_path)
    rows = [TrialRow(trial.trial_id, trial.spec, "pack-0") for trial in grid.trials]
    tags = {layout.GRID: str(tmp_path / "grid.yaml"), layout.OVERRIDES: "[]"}
    info = replace(make_sweep(""), trials=rows, grid_text=text, tags=tags, files=code_files(grid))
    sweep = write(origin, info, *(make_result(row.trial_id) for row in rows))
    origin.attach(sweep.parent_run_id, {layout.REPORT_FILE: b"<html>"})
    activate(())
    ran.unlink()
    told: list[str] = []
    export_sweep(origin, sweep, tmp_path / "x.zip", told.append)
    assert told == []
    (tmp_path / "seen.csv").write_text("0,0,1.0\n1,1,3.0\n")
    import_sweep(local, tmp_path / "x.zip")
    there = find_sweep(local, sweep.sweep_id)
    assert local.read(there.parent_run_id, layout.REPORT_FILE) == b"<html>"
    export_sweep(local, there, tmp_path / "again.zip", told.append)
    assert (told, ran.exists()) == ([], False)
    again = grid_of(local, LocalStorage(tmp_path / "storage"), there, for_work=True)
    assert [trial.trial_id for trial in again.trials] == [trial.trial_id for trial in grid.trials]
    activate(())
    export_sweep(origin, sweep, tmp_path / "y.zip", told.append)
    assert told == [f"seen.csv is not as it was when the sweep was submitted: {UNRUNNABLE}"]


def forged(path: Path, to: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> Path:
    """A file with right digests and something else in it."""
    with Archive(path) as archive:
        about, files = archive.about, {name: archive.read(name) for name in archive.names}
    change(about, files)
    with writing(to) as other:
        for name, content in files.items():
            other.add(name, content)
        other.finish(about)
    return to


def table(files: dict[str, bytes], name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    import io

    files[name] = change(pd.read_parquet(io.BytesIO(files[name]))).to_parquet(index=False)


FORGERIES: dict[str, tuple[Callable[[dict[str, Any], dict[str, bytes]], Any], str]] = {
    "no grid": (lambda _, files: files.pop("grid.yaml"), r"grid\.yaml is missing"),
    "no results": (lambda _, files: files.pop("results.parquet"), r"results\.parquet is missing"),
    "no trace": (lambda _, files: files.pop("traces/000000.parquet"), r"traces/000000\.parquet is missing"),
    "no table": (lambda _, files: files.update({"results.parquet": b"PAR1"}), r"results\.parquet: "),
    "no id": (lambda about, _: about.update(sweep_id="../x"), "sweep_id: "),
    "no run": (lambda about, _: about.update(run_id="'; DROP TABLE runs"), "run_id: "),
    "no experiment": (lambda about, _: about.update(experiment="a\x1b[2J"), "experiment: .*cannot be seen"),
    "no trial": (lambda _, files: table(files, "trials.parquet", lambda f: f.assign(trial_id="\x1b[2J")), "the id of a trial is none"),
    "no status": (lambda about, _: about.update(status="PENDING"), "status: "),
    "more": (lambda about, _: about.update(command="rm -rf /"), "command: "),
    "twice": (lambda _, files: table(files, "results.parquet", lambda f: pd.concat([f, f])), "its trials are not those that it lists"),
    "others": (lambda _, files: table(files, "trials.parquet", lambda f: f[1:]), "its trials are not those that it lists"),
    "outcome": (lambda _, files: table(files, "results.parquet", lambda f: f.assign(outcome="won")), "no outcome 'won'"),
    "place": (lambda _, files: table(files, "results.parquet", lambda f: f.assign(trace="grid.yaml")), "traces elsewhere"),
    "column": (lambda _, files: table(files, "results.parquet", lambda f: f.drop(columns="steps")), "no column steps"),
    "type": (lambda _, files: table(files, "results.parquet", lambda f: f.assign(steps="many")), r"results\.parquet: "),
    "json": (lambda _, files: table(files, "runs.parquet", lambda f: f.assign(tags="[")), "tags has something else than JSON"),
    "record": (lambda about, _: about["tags"].update({layout.RECORD: '{"points": 3}'}), "its tag orchestrate.record: "),
    "no record": (lambda about, _: about["tags"].update({layout.RECORD: "["}), "its tag orchestrate.record: "),
    "attempt": (lambda about, _: about["tags"].update({layout.ATTEMPT: "often"}), "its tag orchestrate.attempt: "),
    "varies": (lambda about, _: about["tags"].update({layout.VARIES: '{"a": 1}'}), "its tag orchestrate.varies: "),
    "overrides": (lambda about, _: about["tags"].update({layout.OVERRIDES: "[3]"}), "its tag orchestrate.overrides: "),
    "detail": (lambda about, _: about["tags"].update({layout.DETAIL: "some"}), "its tag orchestrate.runs is none of"),
    "seconds": (lambda _, files: table(files, "results.parquet", lambda f: f.assign(seconds=np.inf)), "took no such time"),
    "no seconds": (lambda _, files: table(files, "results.parquet", lambda f: f.assign(seconds=np.nan)), "took no such time"),
    "times": (lambda _, files: table(files, "runs.parquet", lambda f: f.assign(ended=1 << 62)), "a run has no such times"),
    "began": (lambda about, _: about.update(started=-1), "started: "),
    "steps": (lambda _, files: table(files, "traces/000000.parquet", lambda f: f.drop(columns="step")), "no column trial_id or step"),
    "large": (
        lambda _, files: table(files, "results.parquet", lambda f: pd.concat([f.assign(error="x" * 400_000)] * 1_500)),
        r"results\.parquet is larger than any table",
    ),
    "ids": (lambda _, files: table(files, "runs.parquet", lambda f: f.assign(run_id=range(len(f)))), "none of MLflow's"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_file_that_is_not_as_it_has_to_be_leaves_nothing(local: Store, kept: Kept, tmp_path: Path, forgery: str) -> None:
    (_, sweep), (_, file) = kept.sweeps, kept.files
    change, message = FORGERIES[forgery]
    with pytest.raises(UsageError, match=f"forged.zip holds no sweep: .*{message}"):
        import_sweep(local, forged(file, tmp_path / "forged.zip", change))
    assert list_sweeps(local) == []
    assert local.client.get_experiment_by_name(sweep.experiment) is None


def test_a_file_says_nothing_of_where_a_sweep_is(origin: Store, local: Store, shared: Any, tmp_path: Path) -> None:
    _, sweep = shared
    for key in (layout.JOB, layout.STORAGE, layout.PROCESS, layout.MACHINE, layout.CANCEL, "mlflow.parentRunId", "mlflow.loggedModel"):
        origin.tag(sweep.parent_run_id, key, "elsewhere")
    export_sweep(origin, sweep, tmp_path / "x.zip")
    path = forged(
        tmp_path / "x.zip",
        tmp_path / "forged.zip",
        lambda about, _: about["tags"].update({layout.JOB: "elsewhere", layout.STORAGE: "elsewhere"}),
    )
    for one in (tmp_path / "x.zip", path):
        with zipfile.ZipFile(tmp_path / "x.zip") as archive:
            assert b"elsewhere" not in archive.read("manifest.json")
        import_sweep(local, one)
        assert "elsewhere" not in find_sweep(local, sweep.sweep_id).tags.values()
        local.client.delete_run(find_sweep(local, sweep.sweep_id).parent_run_id)
