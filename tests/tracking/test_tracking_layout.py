"""What is in MLflow after a sweep, field by field, as MLflow's own client reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from safetensors.numpy import load_file

from orchestrator.errors import UsageError
from orchestrator.tracking import layout
from orchestrator.tracking.read.factors import load_factors
from orchestrator.tracking.read.queries import find_sweep
from orchestrator.tracking.read.results import Source
from orchestrator.tracking.store import Store
from orchestrator.tracking.write.parent import SweepInfo, TrialRow
from orchestrator.tracking.write.run_record import run_record, thinned
from orchestrator.tracking.write.writer import SweepWriter
from workloads.training.results import TrialResult
from workloads.training.trial_state import Outcome, Trace
from workloads.trial import TrialSpec

MakeSweep = Callable[..., SweepInfo]
MakeResult = Callable[..., TrialResult]


def write(store: Store, sweep: SweepInfo, *results: TrialResult) -> str:
    with SweepWriter(store, sweep) as writer:
        writer.add("pack-0", results, {"device": "cpu"})
        writer.close("FINISHED", {"trials": len(sweep.trials), "converged": len(results)}, {"seconds": 2.5})
    return writer.parent_run_id


def child(store: Store, parent: str, trial_id: str) -> Any:
    experiment = store.client.get_run(parent).info.experiment_id
    (run,) = [
        run
        for run in store.client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
        if run.data.tags["orchestrate.trial_id"] == trial_id
    ]
    return run


def test_parent_run(store: Store, make_sweep: MakeSweep, make_result: MakeResult, tmp_path: Path) -> None:
    sweep = make_sweep("a b", reused={"b": Source("1" * 32, "0" * 32)}, tags={"grid": "g.yaml"})
    parent = write(store, sweep, make_result("a"))

    run = store.client.get_run(parent)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"sweep-{sweep.sweep_id}"
    assert run.info.end_time >= run.info.start_time
    assert run.data.metrics == {"sweep/trials": 2, "sweep/trials_written": 1, "sweep/converged": 1, "sweep/seconds": 2.5}
    expected = {"orchestrate.kind": "sweep", "orchestrate.sweep_id": sweep.sweep_id, "orchestrate.reused": "1", "grid": "g.yaml"}
    assert expected.items() <= run.data.tags.items()
    folder = store.client.download_artifacts(parent, "", str(tmp_path))
    assert Path(folder, "grid.yaml").read_text() == "name: x\n"
    assert json.loads(Path(folder, "plan.json").read_text()) == {"packs": 1}
    rows = parquet.read_table(Path(folder, "trials.parquet")).to_pylist()
    told = [(row["trial_id"], row["pack"], row["reused_run_id"], row["reused_from"]) for row in rows]
    assert told == [("a", "pack-0", None, None), ("b", None, "0" * 32, "1" * 32)]
    assert json.loads(rows[0]["spec"]) == sweep.trials[0].spec.flat()


def test_child_run(store: Store, make_sweep: MakeSweep, make_result: MakeResult, tmp_path: Path) -> None:
    sweep, result = make_sweep("a b"), make_result("a")
    parent = write(store, sweep, result)

    run = child(store, parent, "a")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "a")
    assert (run.info.start_time, run.info.end_time) == (1_700_000_000_000, 1_700_000_001_500)
    expected = {
        "mlflow.parentRunId": parent,
        "mlflow.runName": "a",
        "orchestrate.kind": "trial",
        "orchestrate.sweep_id": sweep.sweep_id,
        "orchestrate.outcome": "converged",
        "orchestrate.steps": str(result.steps),
        "orchestrate.trace": layout.trace_path("pack-0", ["a"]),
        "orchestrate.attempt": "1",
        "device": "cpu",
    }
    assert expected.items() <= run.data.tags.items()
    assert json.loads(run.data.tags["orchestrate.record"]) == {"points": 200, "steps": None, "measures": ["nuclear", "det"]}
    params = run.data.params
    assert (params["optimizer.lr"], params["factorization.depth"], params["init.balanced"]) == ("0.006", "3", "True")
    assert json.loads(params["problem.entries"]) == [[0, 1, 1.0], [1, 0, 1.0], [1, 1, 0.0]]
    assert set(params) == set(sweep.trials[0].spec.flat())
    assert run.data.tags["orchestrate.factors"] == layout.factors_path("pack-0", ["a"])
    assert store.client.list_artifacts(run.info.run_id) == []


def test_factors_of_small_trials_are_in_one_file_and_of_large_ones_artifacts_of_their_runs(
    store: Store, make_sweep: MakeSweep, make_result: MakeResult, tmp_path: Path
) -> None:
    large = {"W1": np.full((100, 100), 0.5), "W2": np.arange(100.0)[None]}
    kept = {"step-10": {"W1": np.eye(2)}, "loss-0.01": {"W1": np.ones((2, 2))}}
    float32 = {f"W{n}": np.full((2, 2), n, dtype=np.float32) for n in range(1, 12)}
    made = [
        make_result("a", checkpoints=kept),
        make_result("b", factors=large, checkpoints=kept),
        make_result("c", factors=float32),
        make_result("d", Outcome.FAILED, rows=0, error="no", factors={}),
        make_result("e"),
    ]
    sweep = make_sweep("a b c d e f")
    parent = write(store, sweep, *made)
    found = dict(load_factors(store, find_sweep(store, sweep.sweep_id)))
    assert set(found) == {"a", "b", "c", "e"}
    assert list(found["c"]) == list(float32)
    for result in made:
        for name, factor in result.factors.items():
            assert (found[result.trial_id][name].tobytes(), found[result.trial_id][name].dtype) == (factor.tobytes(), factor.dtype)
    for trial in "ab":
        for checkpoint, factors in kept.items():
            np.testing.assert_array_equal(found[trial][f"W1 at {checkpoint}"], factors["W1"])
    assert set(dict(load_factors(store, find_sweep(store, sweep.sweep_id), ["e", "b"]))) == {"e", "b"}
    with pytest.raises(UsageError, match="has no factors of d, f"):
        list(load_factors(store, find_sweep(store, sweep.sweep_id), ["a", "d", "f"]))
    run = child(store, parent, "b")
    assert "orchestrate.factors" not in run.data.tags
    file = load_file(store.client.download_artifacts(run.info.run_id, "factors.safetensors", str(tmp_path)))
    np.testing.assert_array_equal(file["W1"], large["W1"])
    assert len(store.client.list_artifacts(parent, "factors")) == 1


def test_history_is_exact_and_thinned(store: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    result = make_result("a")
    run = child(store, write(store, make_sweep("a"), result), "a")

    rows = thinned(100, 30)
    for column, name in enumerate(result.trace.columns):
        history = store.client.get_metric_history(run.info.run_id, name)
        assert [(point.step, point.value) for point in history] == list(
            zip(result.trace.steps[rows].tolist(), result.trace.values[rows, column].tolist(), strict=True)
        )
        times = [point.timestamp for point in history]
        assert times == sorted(times)
        assert times[-1] == run.info.end_time
    assert run.data.metrics == result.trace.final()


def test_not_a_number_and_infinity(store: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    nan, inf = math.nan, math.inf
    values = np.array([[1.0, nan, nan, 1.0], [inf, 2.0, nan, 2.0], [nan, 3.0, nan, nan]])
    trace = Trace(("loss", "late", "never", "lost"), np.array([0, 1, 2]), values)
    run = child(store, write(store, make_sweep("a"), make_result("a", Outcome.DIVERGED, trace=trace)), "a")

    def history(name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in store.client.get_metric_history(run.info.run_id, name)]

    assert run.info.status == "FINISHED"
    assert history("loss") == [(0, 1.0), (1, np.finfo(float).max), (2, pytest.approx(nan, nan_ok=True))]
    assert history("late") == [(1, 2.0), (2, 3.0)]
    assert history("never") == []
    # The last defined value must not pass for the final one.
    assert history("lost") == [(0, 1.0), (1, 2.0), (2, pytest.approx(nan, nan_ok=True))]
    assert math.isnan(run.data.metrics["lost"])
    assert math.isnan(run.data.metrics["loss"])


def test_failed_and_cancelled(store: Store, make_sweep: MakeSweep, make_result: MakeResult, tmp_path: Path) -> None:
    error = "Traceback (most recent call last):\n" + "  File x\n" * 3000 + "ValueError: no\n"
    failed = make_result("a", Outcome.FAILED, rows=0, error=error)
    parent = write(store, make_sweep("a b"), failed, make_result("b", Outcome.CANCELLED))

    run = child(store, parent, "a")
    assert run.info.status == "FAILED"
    assert run.data.tags["orchestrate.error"] == "ValueError: no"
    assert run.data.tags["mlflow.note.content"].endswith("ValueError: no\n\n```")
    assert "orchestrate.trace" not in run.data.tags
    assert Path(store.client.download_artifacts(run.info.run_id, "error.txt", str(tmp_path))).read_text() == error
    assert child(store, parent, "b").info.status == "KILLED"


def test_no_password_of_a_traceback_gets_into_mlflow() -> None:
    failed = TrialResult.failure("a", "Traceback\n  connect()\nOSError: http://me:secret@host is down", 0.0, 1.0)
    record = run_record("r", failed, {}, {}, 30)
    assert record.tags[layout.ERROR] == "OSError: http://me:***@host is down"
    assert not any("secret" in text for text in (*record.tags.values(), *(file.decode() for file in record.files.values())))


def test_traces_in_parts_with_different_columns(store: Store, make_sweep: MakeSweep, make_result: MakeResult, tmp_path: Path) -> None:
    first, second = make_result("a", columns=("loss", "det")), make_result("b", columns=("loss", "nuclear"))
    third = make_result("c")
    with SweepWriter(store, make_sweep("a b c")) as writer:
        writer.add("pack-0", [first, second])
        writer.add("pack-0", [third])

    folder = Path(store.client.download_artifacts(writer.parent_run_id, "traces", str(tmp_path)))
    assert {f"traces/{path.name}" for path in folder.iterdir()} == {layout.trace_path("pack-0", "ab"), layout.trace_path("pack-0", "c")}
    frame = parquet.read_table(folder / Path(layout.trace_path("pack-0", "ab")).name).to_pandas()
    assert list(frame.columns) == ["trial_id", "step", "loss", "det", "nuclear"]
    of_first = frame[frame["trial_id"] == "a"]
    assert of_first["det"].to_numpy().tobytes() == np.ascontiguousarray(first.trace.values[:, 1]).tobytes()
    assert of_first["nuclear"].isna().all()
    assert of_first["step"].tolist() == first.trace.steps.tolist()
    assert child(store, writer.parent_run_id, "c").data.tags["orchestrate.trace"] == layout.trace_path("pack-0", "c")


def test_more_than_one_request_holds(store: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    columns = ("loss", *(f"sv_{i}" for i in range(49)))
    result = make_result("a", columns=columns)
    run = child(store, write(store, make_sweep("a"), result), "a")
    assert run.data.metrics == result.trace.final()
    assert len(store.client.get_metric_history(run.info.run_id, "sv_48")) == 30


def test_a_long_param_is_shortened_with_a_digest(
    store: Store, make_sweep: MakeSweep, make_spec: Callable[..., TrialSpec], make_result: MakeResult
) -> None:
    entries = [[i, j, 0.1] for i in range(40) for j in range(40)]
    spec = make_spec(problem={"kind": "matrix_completion", "shape": [40, 40], "entries": entries})
    sweep = replace(make_sweep("a"), trials=[TrialRow("a", spec, "pack-0")])
    value = child(store, write(store, sweep, make_result("a")), "a").data.params["problem.entries"]
    assert len(value) == 6000
    assert value.startswith("[[0")
    assert "sha256:" in value


@pytest.mark.parametrize(("rows", "points"), [(1, 30), (2, 30), (29, 30), (30, 30), (31, 30), (200, 30), (5, 1)])
def test_thinning_keeps_the_ends(rows: int, points: int) -> None:
    chosen = thinned(rows, points)
    assert (chosen[0], chosen[-1]) == (0, rows - 1)
    assert len(chosen) == min(rows, max(points, 2))
    assert (np.diff(chosen) > 0).all()
    assert rows <= points or np.ptp(np.diff(chosen)) <= 1 or points < 2
