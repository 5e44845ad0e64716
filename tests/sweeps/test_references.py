"""Distances to arrays of data files: in every engine, of trials that have ended, and of a file that has changed since."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import orchestrator
from orchestrator.errors import GridError, UsageError
from orchestrator.grid import Grid, load_grid
from orchestrator.storage.base import LocalStorage
from orchestrator.sweeps.at_ends import ended_with_less, measured
from orchestrator.sweeps.rerun import rerun_grid
from orchestrator.sweeps.resume import grid_of
from orchestrator.sweeps.share import export_sweep, import_sweep
from orchestrator.sweeps.submit import recording_of
from orchestrator.tracking import layout
from orchestrator.tracking.read.queries import SweepSummary, find_sweep
from orchestrator.tracking.store import Store, open_store
from orchestrator.tracking.write.parent import SweepInfo, TrialRow
from orchestrator.tracking.write.writer import SweepWriter
from workloads.engines.base import create
from workloads.training.loop import train
from workloads.training.results import Finished, TrialResult

GRID = """
name: {name}
fixed:
  problem: {{kind: matrix_completion, shape: [3, 3], target: {{rank: 1}}, observed: 5}}
  factorization: {{kind: deep_matrix, depth: 2}}
  init: {{kind: gaussian, scale: 0.3}}
  optimizer: {{kind: gd, lr: 0.05}}
  stop: {{steps: 20}}
seeds: 2
record: {record}
"""
FOUND = '{points: 3, measures: [distance_to_found, error], references: {found: "kept/w.npz:W"}}'
ARRAYS = {"W": np.diag([1.0, -2.0, 3.0]), "V": np.ones((2, 3)), "n": np.float64(2.0), "bad": np.array([[np.inf]])}


def written(folder: Path, record: str = FOUND, name: str = "x", **arrays: np.ndarray) -> Path:
    (folder / "kept").mkdir(exist_ok=True)
    np.savez(folder / "kept" / "w.npz", **{**ARRAYS, **arrays})
    np.savez(folder / "one.npz", only=ARRAYS["W"])
    (folder / "grid.yaml").write_text(GRID.format(name=name, record=record))
    return folder / "grid.yaml"


def trained(grid: Grid, engine: str = "batched") -> list[TrialResult]:
    events = train(grid.trials, recording_of(grid), create(engine), files=grid.files.contents)
    return [result for event in events if isinstance(event, Finished) for result in event.results]


def distance(factors: Mapping[str, Any], to: np.ndarray = ARRAYS["W"]) -> float:
    return float(np.linalg.norm(factors["W2"] @ factors["W1"] - to) / np.linalg.norm(to))


@pytest.mark.parametrize("engine", ["autograd", "batched", "fused"])
def test_it_is_the_distance_to_the_array(engine: str, tmp_path: Path) -> None:
    for result in trained(load_grid(written(tmp_path)), engine):
        assert result.trace.final()["distance_to_found"] == pytest.approx(distance(result.factors), rel=1e-12)


def test_an_array_of_another_shape_or_of_zeros_has_no_distance(tmp_path: Path) -> None:
    record = '{points: 3, measures: [distance_to_other, distance_to_zero], references: {other: "kept/w.npz:V", zero: "kept/w.npz:zero"}}'
    path = written(tmp_path, record, zero=np.zeros((3, 3)))
    # Another trial has the shape of the array.
    path.write_text(path.read_text().replace("seeds: 2", "grid: {problem.shape: [[3, 3], [2, 3]]}"))
    grid = load_grid(path)
    (square,), (wide,) = ([r.trace.final() for r in trained(replace(grid, trials=(trial,)))] for trial in grid.trials)
    assert np.isnan([square["distance_to_other"], square["distance_to_zero"], wide["distance_to_zero"]]).all()
    assert wide["distance_to_other"] > 0


def test_what_is_measured_against_decides_over_no_id(tmp_path: Path) -> None:
    with_it, without = (load_grid(written(tmp_path, record)) for record in (FOUND, "{}"))
    assert [trial.trial_id for trial in with_it.trials] == [trial.trial_id for trial in without.trials]
    changes: tuple[dict[str, Any], ...] = ({}, {"record": FOUND.replace("kept/w.npz:W", "one.npz")}, {"W": np.eye(3)})
    tags = [layout.recording_tag(recording_of(load_grid(written(tmp_path, **change))).as_json()) for change in changes]
    assert len(set(tags)) == 3
    assert layout.lacking(tags[0], tags[2]) == "recorded against other arrays: distance_to_found"
    assert layout.unrecorded(tags[0], tags[2]) == ["distance_to_found"]
    assert layout.covers(tags[0], tags[0])


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("kept/w.npz", "kept/w.npz: holds V, W, bad, n: say which, as kept/w.npz:V"),
        ("kept/w.npz:w", "kept/w.npz: holds no w, but V, W, bad, n"),
        ("kept/w.npz:V", "V has shape [2, 3], and what trials come to [3, 3]"),
        ("kept/w.npz:n", "n must be a vector, matrix or tensor, not of shape []"),
        ("kept/w.npz:bad", "bad[0, 0] is not a finite number"),
        ("gone.npz", "cannot read gone.npz: No such file or directory"),
        ("grid.yaml", "must be an array of an .npz file, written FILE.npz:ARRAY"),
    ],
)
def test_a_reference_that_is_none_is_a_mistake(reference: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(GridError, match=rf"grid.yaml:10:72: record.references.found: .*{re.escape(said)}") as caught:
        load_grid(written(tmp_path, FOUND.replace("kept/w.npz:W", reference)))
    assert len(caught.value.mistakes) == 1


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("{measures: [error], references: {found: one.npz}}", "references.found: has no effect: record.measures has no distance_to_found"),
        ("{measures: [distance_to_fond]}", "distance_to_fond is against an array that record.references.fond has to name"),
        ("{measures: [error], references: {a-b: one.npz}}", "references.a-b: must be called by at most 60 letters"),
        ("{references: {nuclear_norm: one.npz}}", "is a name that is taken: distance_to_nuclear_norm is another measure"),
    ],
)
def test_names_without_an_array_and_arrays_without_a_measure_are_mistakes(record: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(GridError, match=re.escape(said)):
        load_grid(written(tmp_path, record))


def test_no_trial_ends_by_it(tmp_path: Path) -> None:
    with pytest.raises(GridError, match=r"stop.when: distance_to_found is against an array of record.references"):
        load_grid(written(tmp_path), ["stop.when=distance_to_found < 0.1"])


def swept(store: Store, make_sweep: Callable[..., SweepInfo], path: Path) -> SweepSummary:
    """A sweep of a grid, all of whose trials have ended."""
    grid = load_grid(path)
    rows = [TrialRow(trial.trial_id, trial.spec, "pack-0") for trial in grid.trials]
    tags = {layout.GRID: str(path), layout.OVERRIDES: "[]"}
    record = recording_of(grid).as_json()
    info = replace(make_sweep(""), experiment=grid.name, trials=rows, grid_text=path.read_text(), record=record, tags=tags)
    with SweepWriter(store, info) as writer:
        writer.add("pack-0", trained(grid))
        writer.close("FINISHED", {"exhausted": len(rows)})
    return find_sweep(store, info.sweep_id)


def test_trials_that_have_ended_are_measured_at_their_ends(
    local: Store, make_sweep: Callable[..., SweepInfo], experiment: str, tmp_path: Path
) -> None:
    first = swept(local, make_sweep, written(tmp_path, name=experiment))
    # In place of an array another.
    grid = load_grid(written(tmp_path, name=experiment, W=np.eye(3)))
    trials, recording = {trial.trial_id: trial for trial in grid.trials}, recording_of(grid)
    less = ended_with_less(local, [experiment], grid.trials, recording, grid.traced)
    assert {one.missing for one in less.values()} == {("distance_to_found",)}
    for state in measured(local, less, trials, recording, grid.files.contents).values():
        product = dict(zip(state.spec.factor_shapes, state.tensors, strict=True))
        column = state.trace.values[:, state.trace.columns.index("distance_to_found")]
        assert column[-1] == pytest.approx(distance(product, np.eye(3)), rel=1e-12)
        assert np.isnan(column[:-1]).all()
    storage = LocalStorage(tmp_path / "storage")
    with pytest.raises(UsageError, match=r"the file that distance_to_found of sweep .* is against has changed"):
        grid_of(local, storage, first)


def test_a_sweep_is_measured_against_its_arrays_and_others(
    local: Store, make_sweep: Callable[..., SweepInfo], experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = swept(local, make_sweep, written(tmp_path, name=experiment))
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"tracking_uri": local.uri, "storage": str(tmp_path / "storage")}
    names = ["distance_to_found", "distance_to_eye"]
    np.save(tmp_path / "eye.npy", np.eye(3))
    np.savez(tmp_path / "eye.npz", np.eye(3))
    frame = orchestrator.measure(sweep.sweep_id, names, references={"eye": "eye.npz"}, **given)
    kept = orchestrator.load_factors(sweep.sweep_id, tracking_uri=local.uri)
    for _, row in frame.iterrows():
        assert row["distance_to_found"] == pytest.approx(distance(kept[row["trial_id"]]), rel=1e-12)
        assert row["distance_to_eye"] == pytest.approx(distance(kept[row["trial_id"]], np.eye(3)), rel=1e-12)
    wrong = {"eye.npy": "must be an array of an .npz file", "no.npz": "cannot read no.npz", "kept/w.npz:V": "has shape"}
    for file, said in wrong.items():
        with pytest.raises(UsageError, match=rf"reference eye: .*{said}"):
            orchestrator.measure(sweep.sweep_id, names, references={"eye": file}, **given)
    with pytest.raises(UsageError, match="distance_to_eye is against an array that"):
        orchestrator.measure(sweep.sweep_id, names, **given)


def test_arrays_go_with_a_sweep_that_is_shared_and_with_trials_that_are_run_again(
    local: Store, template: Path, make_sweep: Callable[..., SweepInfo], experiment: str, tmp_path: Path
) -> None:
    path = written(tmp_path, name=experiment)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(template, tmp_path / "elsewhere" / "mlflow.db")
    store = open_store(f"sqlite:///{tmp_path / 'elsewhere' / 'mlflow.db'}")
    grid = load_grid(path)
    sweep, storage = swept(local, make_sweep, path), LocalStorage(tmp_path / "storage")
    told: list[str] = []
    export_sweep(local, sweep, tmp_path / "x.zip", told.append)
    assert told == []
    (tmp_path / "kept" / "w.npz").unlink()
    import_sweep(store, tmp_path / "x.zip")
    there = find_sweep(store, sweep.sweep_id)
    again = grid_of(store, storage, there)
    assert recording_of(again) == recording_of(grid)
    made = rerun_grid(store, storage, there, [grid.trials[0].trial_id], ["points=5"])
    assert made.record.references == grid.record.references
    export_sweep(local, sweep, tmp_path / "y.zip", told.append)
    assert "cannot read kept/w.npz" in told[0]
