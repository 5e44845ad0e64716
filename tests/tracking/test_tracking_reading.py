"""Sweeps, trials and traces read back: exactly what was written, in grid order, reused trials included."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mlflow.tracking._tracking_service.utils import _get_store
from mlflow.utils.file_utils import local_file_uri_to_path

from orchestrator.analysis import report
from orchestrator.analysis.claims import Offender, Verdict
from orchestrator.errors import UsageError
from orchestrator.storage.detail import Detail
from orchestrator.tracking import layout
from orchestrator.tracking.read.factors import load_factors
from orchestrator.tracking.read.queries import find_finished, find_sweep, list_sweeps
from orchestrator.tracking.read.tables import (
    count_deleted,
    failures,
    load_history,
    load_history_of,
    load_runs,
    load_runs_of,
    lost,
    match_trials,
)
from orchestrator.tracking.store import Store
from orchestrator.tracking.turns import experiment_turn
from orchestrator.tracking.write.late import add_runs
from orchestrator.tracking.write.parent import SweepInfo
from orchestrator.tracking.write.writer import SweepWriter
from tests.processes import eventually
from tests.stores import trial_runs
from workloads.training.results import TrialResult
from workloads.training.trial_state import Outcome, Trace

MakeSweep = Callable[..., SweepInfo]
MakeResult = Callable[..., TrialResult]


def write(store: Store, sweep: SweepInfo, *results: TrialResult, status: str = "FINISHED") -> None:
    counts = {outcome.value: sum(result.outcome is outcome for result in results) for outcome in Outcome}
    with SweepWriter(store, sweep) as writer:
        writer.add("pack-0", results)
        writer.close(status, {"trials": len(sweep.trials), **counts})


def test_runs_and_history_with_reuse(store: Store, make_sweep: MakeSweep, make_result: MakeResult, experiment: str) -> None:
    results = {name: make_result(name) for name in "abc"}
    first = make_sweep("b a")
    write(store, first, results["a"], results["b"])
    reused = find_finished(store, experiment, {"a", "b", "c"}, first.record)
    assert set(reused) == {"a", "b"}
    second = make_sweep("c a d b", reused=reused)
    write(store, second, results["c"], status="KILLED")

    sweep = find_sweep(store, second.sweep_id)
    runs = load_runs(store, sweep)
    assert runs["trial_id"].tolist() == ["c", "a", "d", "b"]
    assert runs["outcome"].tolist() == ["converged", "converged", None, "converged"]
    assert runs["run_id"].tolist()[1::2] == [reused["a"].run_id, reused["b"].run_id]
    assert runs["seed"].tolist() == [0, 1, 2, 3]
    for name in "abc":
        row = runs.set_index("trial_id").loc[name]
        assert row["steps"] == results[name].steps
        assert row["seconds"] == results[name].seconds
        assert row[["loss", "nuclear", "det"]].to_dict() == results[name].trace.final()
    assert {str(runs[key].dtype) for key in ("seed", "factorization.depth")} == {"int64"}
    assert (runs["optimizer.lr"].dtype, runs["init.balanced"].dtype, runs["spec.loss"][0]) == (np.float64, np.bool_, "half_sse")

    history = load_history(store, sweep)
    assert list(dict.fromkeys(history["trial_id"])) == ["c", "a", "b"]
    assert list(history.columns) == ["trial_id", "step", "loss", "det", "nuclear"]
    for name in "abc":
        rows = history[history["trial_id"] == name]
        assert rows["step"].tolist() == results[name].trace.steps.tolist()
        assert np.array_equal(rows[["loss", "nuclear", "det"]].to_numpy(), results[name].trace.values)
    assert set(load_history(store, sweep, ["b"])["trial_id"]) == {"b"}
    with pytest.raises(UsageError, match="no trial 'x'"):
        load_history(store, sweep, ["x"])


def test_trials_are_meant_by_the_beginnings_of_their_ids() -> None:
    known = ["4cf3", "4c1a", "9b", "9"]
    assert match_trials(known, ["4cf", "9b"]) == ["4cf3", "9b"]
    # An id is that trial, whatever else it begins.
    assert match_trials(known, "9") == ["9"]
    for reference, message in (("4c", "'4c' begins the ids of several trials: 4cf3, 4c1a$"), ("x", "no trial 'x'"), ("", "no trial ''")):
        with pytest.raises(UsageError, match=message):
            match_trials(known, [reference])
    with pytest.raises(UsageError, match="and 2 more"):
        match_trials([f"a{number}" for number in range(10)], "a")


def test_a_sweep_whose_id_was_removed_hides_no_others(local: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    sweeps = [make_sweep("a"), make_sweep("b")]
    for sweep in sweeps:
        write(local, sweep, make_result(sweep.trials[0].trial_id))
    local.client.delete_tag(find_sweep(local, sweeps[1].sweep_id).parent_run_id, layout.SWEEP_ID)
    assert [found.sweep_id for found in list_sweeps(local)] == [sweeps[0].sweep_id]
    assert find_sweep(local, "latest").sweep_id == sweeps[0].sweep_id


def test_of_several_sweeps_each_trial_is_there_once(store: Store, make_sweep: MakeSweep, make_result: MakeResult, experiment: str) -> None:
    first = make_sweep("a b")
    write(store, first, make_result("a"), make_result("b"))
    second = make_sweep("b c", reused=find_finished(store, experiment, {"b"}, first.record))
    write(store, second, make_result("c"))
    sweeps = [find_sweep(store, sweep.sweep_id) for sweep in (first, second)]
    runs, history = load_runs_of(store, sweeps), load_history_of(store, sweeps)
    assert runs["trial_id"].tolist() == ["a", "b", "c"]
    assert runs["sweep"].tolist() == [first.sweep_id, first.sweep_id, second.sweep_id]
    assert history.groupby("trial_id").size().tolist() == [100, 100, 100]
    assert set(load_history_of(store, sweeps, ["b", "c"])["trial_id"]) == {"b", "c"}


def test_only_what_was_recorded_alike_is_reused(store: Store, make_sweep: MakeSweep, make_result: MakeResult, experiment: str) -> None:
    outcomes = dict(zip("abcdef", Outcome, strict=True))
    ended = {name for name, outcome in outcomes.items() if outcome not in (Outcome.FAILED, Outcome.CANCELLED)}
    results = [make_result(name, outcome, error="no" if outcome is Outcome.FAILED else None) for name, outcome in outcomes.items()]
    sweep = make_sweep("a b c d e f")
    write(store, sweep, *results)

    record = dict(sweep.record)
    assert len(ended) == 4
    assert set(find_finished(store, experiment, set("abcdef"), record)) == ended
    assert set(find_finished(store, experiment, {"a"}, {**record, "measures": ["det"]})) == {"a"}
    assert find_finished(store, experiment, {"a"}, {**record, "measures": ["det", "rank"]}) == {}
    assert find_finished(store, experiment, {"a"}, {**record, "points": 100}) == {}
    assert find_finished(store, experiment, {"a"}, {**record, "steps": list(range(9999))}) == {}
    assert find_finished(store, "no such experiment", {"a"}, record) == {}


def test_a_sweep_whose_process_died(store: Store, make_sweep: MakeSweep, make_result: MakeResult, experiment: str) -> None:
    sweep = make_sweep("a b c")
    writer = SweepWriter(store, sweep)
    writer.__enter__()
    writer.add("pack-0", [make_result("a"), make_result("b", Outcome.FAILED, rows=0, error="Traceback\nValueError: no")])
    eventually(lambda: not writer.queued)

    (summary,) = list_sweeps(store, experiment)
    assert (summary.status, summary.ended, summary.trials) == ("RUNNING", None, 3)
    assert (summary.counts["converged"], summary.counts["failed"]) == (1, 1)
    assert load_runs(store, summary)["outcome"].tolist() == ["converged", "failed", None]
    assert set(load_history(store, summary)["trial_id"]) == {"a"}
    ((trial_id, run_id, traceback),) = failures(store, summary)
    assert (trial_id, traceback) == ("b", "Traceback\nValueError: no")
    assert store.client.get_run(run_id).info.status == "FAILED"
    writer.close("KILLED")


def test_what_was_deleted_is_said(store: Store, make_sweep: MakeSweep, make_result: MakeResult, experiment: str) -> None:
    results = {name: make_result(name) for name in "abcd"}
    first = make_sweep("a b")
    write(store, first, results["a"], results["b"])
    reused = find_finished(store, experiment, {"a", "b"}, first.record)
    second = make_sweep("a b c d", reused=reused)
    write(store, second, results["c"], results["d"])
    sweep = find_sweep(store, second.sweep_id)
    whole = load_runs(store, sweep)
    assert list(lost(whole, load_history(store, sweep))) == []
    assert count_deleted(store, sweep) == 0
    for trial in (0, 2):
        store.client.delete_run(whole["run_id"][trial])

    runs, history = load_runs(store, sweep), load_history(store, sweep)
    assert runs["outcome"].tolist() == ["deleted", "converged", "deleted", "converged"]
    assert runs["run_id"].tolist() == whole["run_id"].tolist(), "they may be restored"
    assert runs["seed"].tolist() == whole["seed"].tolist()
    assert runs["loss"].isna().tolist() == [True, False, True, False]
    assert set(history["trial_id"]) == {"b", "d"}
    (text,) = lost(runs, history)
    assert text.startswith("the runs of 2 of 4 trials were deleted in MLflow: ")
    assert [count_deleted(store, find_sweep(store, one.sweep_id)) for one in (first, second)] == [1, 2]


def test_what_was_deleted_for_good_is_said(local: Store, make_sweep: MakeSweep, make_result: MakeResult, experiment: str) -> None:
    results = {name: make_result(name) for name in "abc"}
    first = make_sweep("a b")
    write(local, first, results["a"], results["b"])
    second = make_sweep("a b c", reused=find_finished(local, experiment, {"a", "b"}, first.record))
    write(local, second, results["c"])
    sweep = find_sweep(local, second.sweep_id)
    whole = load_runs(local, sweep)
    # The sweep that ran them, and with it their traces; then a reused run, and one of the sweep's own.
    remove(local, find_sweep(local, first.sweep_id).parent_run_id)
    runs, history = load_runs(local, sweep), load_history(local, sweep)
    assert runs.equals(whole)
    assert set(history["trial_id"]) == {"c"}
    assert list(lost(runs, history)) == ["the traces of 2 of 3 trials were deleted in MLflow, with the sweep that ran them"]
    remove(local, *whole["run_id"][[0, 2]])
    runs = load_runs(local, sweep)
    assert runs["outcome"].tolist() == ["deleted", "converged", "deleted"]
    assert runs["run_id"].tolist() == whole["run_id"].tolist()
    assert count_deleted(local, sweep) == 2


def remove(store: Store, *run_ids: str) -> None:
    """Delete runs as `mlflow gc` does, which takes half a minute to be imported."""
    for run_id in run_ids:
        shutil.rmtree(store.client.get_run(run_id).info.artifact_uri, ignore_errors=True)
        _get_store(store.uri)._hard_delete_run(run_id)


def test_what_never_ended_was_not_deleted(store: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    sweep = make_sweep("a b c")
    write(store, sweep, make_result("a"), status="KILLED")
    summary = find_sweep(store, sweep.sweep_id)
    (ended,) = load_runs(store, summary)["run_id"].dropna()
    tags = {key: value for key, value in store.client.get_run(ended).data.tags.items() if key != "mlflow.runName"}
    begun = store.client.create_run(summary.experiment_id, tags={**tags, "orchestrate.trial_id": "b"})
    for run_id in (ended, begun.info.run_id):
        store.client.delete_run(run_id)
    assert load_runs(store, summary)["outcome"].tolist() == ["deleted", None, None]


def test_a_sweep_before_its_first_result(store: Store, make_sweep: MakeSweep) -> None:
    with SweepWriter(store, make_sweep("a b")) as writer:
        summary = find_sweep(store, writer._sweep.sweep_id)
        assert load_runs(store, summary)["outcome"].tolist() == [None, None]
        assert load_history(store, summary).empty
        assert failures(store, summary) == []


def test_a_run_that_never_ended_does_not_count(store: Store, make_sweep: MakeSweep, make_result: MakeResult, experiment: str) -> None:
    sweep = make_sweep("a")
    write(store, sweep, make_result("a"))
    (done,) = find_finished(store, experiment, {"a"}, sweep.record).values()
    run = store.client.get_run(done.run_id)
    tags = {key: value for key, value in run.data.tags.items() if key != "mlflow.runName"}
    store.client.create_run(run.info.experiment_id, tags=tags)

    assert find_finished(store, experiment, {"a"}, sweep.record) == {"a": done}
    assert load_runs(store, find_sweep(store, sweep.sweep_id))["run_id"].tolist() == [done.run_id]


def test_find_sweep(store: Store, make_sweep: MakeSweep, experiment: str) -> None:
    beginning = experiment[-8:]
    older, newest = beginning + "1", beginning + "2"
    for sweep_id in (older, newest):
        with SweepWriter(store, replace(make_sweep("a"), sweep_id=sweep_id)):
            pass
    assert [sweep.sweep_id for sweep in list_sweeps(store, experiment)] == [newest, older]
    for reference in (experiment, newest):
        assert find_sweep(store, reference).sweep_id == newest
    with SweepWriter(store, replace(make_sweep("a"), sweep_id=newest + "0")):
        pass
    assert find_sweep(store, newest).sweep_id == newest
    assert find_sweep(store, newest + "0").sweep_id == newest + "0"
    assert find_sweep(store, older[:9]).sweep_id == older
    with pytest.raises(UsageError, match=f"begins the ids of several sweeps: .*{newest} \\({experiment}\\)"):
        find_sweep(store, beginning)
    # Other tests, whose clocks go wrong, may have made sweeps on the same server that are newer.
    with pytest.raises(UsageError, match=f"no sweep or experiment 'zzz'; there are: .*{newest}0"):
        find_sweep(store, "zzz")


def test_the_latest_sweep_is_the_newest_of_all_experiments(local: Store, make_sweep: MakeSweep) -> None:
    assert list_sweeps(local) == []
    assert list_sweeps(local, "x") == []
    with pytest.raises(UsageError, match="no sweeps"):
        find_sweep(local, "latest")
    for name in ("x", "y", "x"):
        sweep = replace(make_sweep("a"), experiment=name)
        with SweepWriter(local, sweep):
            pass
        assert find_sweep(local, "latest").sweep_id == sweep.sweep_id


def test_infinity_is_read_as_infinity(store: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    values = np.array([[1.0, 2.0, 3.0], [np.inf, -np.inf, np.nan]])
    trace = Trace(("loss", "det", "nuclear"), np.array([0, 7]), values)
    sweep = make_sweep("a")
    write(store, sweep, make_result("a", Outcome.DIVERGED, trace=trace))
    summary = find_sweep(store, sweep.sweep_id)
    (row,) = load_runs(store, summary)[["loss", "det", "nuclear"]].to_numpy()
    np.testing.assert_array_equal(row, values[1])
    np.testing.assert_array_equal(load_history(store, summary)[["loss", "det", "nuclear"]].to_numpy(), values)


def test_missing_values_keep_their_types(
    store: Store, make_sweep: MakeSweep, make_result: MakeResult, make_spec: Callable[..., object]
) -> None:
    sweep = make_sweep("a b")
    linear = make_spec(factorization={"kind": "linear"}, init=None)
    rows = [sweep.trials[0], replace(sweep.trials[1], spec=linear)]
    sweep = replace(sweep, trials=rows)
    write(store, sweep, make_result("a", columns=("loss", "det")))

    runs = load_runs(store, find_sweep(store, sweep.sweep_id))
    assert (str(runs["factorization.depth"].dtype), str(runs["init.balanced"].dtype)) == ("Int64", "boolean")
    assert (str(runs["steps"].dtype), runs["steps"].isna().tolist()) == ("Int64", [False, True])
    assert math.isnan(runs["loss"][1])
    assert runs["init.kind"].tolist() == ["gaussian", None]


@pytest.mark.parametrize("runs", ["all", "sampled", "none"])
def test_at_every_detail_the_same_is_read(
    store: Store, make_sweep: MakeSweep, make_result: MakeResult, experiment: str, runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.storage.detail.SAMPLE", 2)
    names = "a b c d e f"
    results = {name: make_result(name) for name in names.split()}
    results["c"] = make_result("c", Outcome.DIVERGED)
    results["e"] = make_result("e", Outcome.FAILED, rows=0, error="Traceback\nValueError: no", factors={})
    first = make_sweep(names, detail=Detail(runs, 6))
    write(store, first, *results.values())
    sweep = find_sweep(store, first.sweep_id)
    written = trial_runs(store, sweep.parent_run_id)
    assert set(written) == {"all": set(names.split()), "none": set(), "sampled": {"a", "c", "e", "f"}}[runs]
    found = find_finished(store, experiment, set(results), first.record)
    assert set(found) == set(results) - {"e"}
    second = make_sweep(f"{names} g", reused=found)
    with SweepWriter(store, second) as writer:
        writer.add("pack-0", [make_result("g")])
    for summary in (sweep, find_sweep(store, second.sweep_id)):
        table = load_runs(store, summary).set_index("trial_id")
        for name, result in results.items():
            if summary is not sweep and name == "e":
                continue
            row = table.loc[name]
            assert (row["outcome"], row["steps"]) == (result.outcome, result.steps)
            assert row["run_id"] == (written[name].info.run_id if name in written else None)
            assert result.trace.final().items() <= row.to_dict().items()
        history = load_history(store, summary)
        factors = dict(load_factors(store, summary))
        for name in set(names.split()) - {"e"}:
            rows = history[history["trial_id"] == name]
            assert np.array_equal(rows[["loss", "nuclear", "det"]].to_numpy(), results[name].trace.values)
            np.testing.assert_array_equal(factors[name]["W3"], results[name].factors["W3"])
    ((trial_id, _, text),) = failures(store, sweep)
    assert (trial_id, text) == ("e", "Traceback\nValueError: no")
    assert {k: v for k, v in list_sweeps(store, experiment)[1].counts.items() if v} == {"converged": 4, "diverged": 1, "failed": 1}
    store.client.delete_run(sweep.parent_run_id)
    gone = set(results) - set(written) - {"e"}
    runs_left = load_runs(store, find_sweep(store, second.sweep_id)).set_index("trial_id")["outcome"]
    assert {name for name in results if runs_left[name] == "deleted"} == gone, "without a run of its own a trial is its sweep's"


def test_a_trial_is_given_a_run_afterwards_like_those_that_had_one_at_once(
    store: Store, make_sweep: MakeSweep, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.storage.detail.SAMPLE", 2)
    names, sweeps = "a b c d e f", {}
    for runs in ("sampled", "all", "none"):
        info = make_sweep(names, detail=Detail(runs, 6))
        write(store, info, *(make_result(name) for name in names.split()))
        sweeps[runs] = find_sweep(store, info.sweep_id)
    made = add_runs(store, sweeps["sampled"], ["a", "b", "d"], 30)
    assert set(made) == {"b", "d"}, "one has a run already"
    assert add_runs(store, sweeps["sampled"], ["a", "b", "d"], 30) == {}
    assert [add_runs(store, sweeps[runs], ["b"], 30) for runs in ("all", "none")] == [{}, {}]
    late, at_once = (trial_runs(store, sweeps[runs].parent_run_id) for runs in ("sampled", "all"))
    assert set(late) == {"a", "b", "c", "d", "f"}
    own = {layout.PARENT, layout.SWEEP_ID, layout.TRACE, layout.FACTORS}
    for name in made:
        one, other = late[name], at_once[name]
        assert one.info.run_id == made[name]
        assert (one.data.params, one.data.metrics, one.info.status) == (other.data.params, other.data.metrics, other.info.status)
        assert {k: v for k, v in one.data.tags.items() if k not in own} == {k: v for k, v in other.data.tags.items() if k not in own}
        for key in one.data.metrics:
            points = [store.client.get_metric_history(run.info.run_id, key) for run in (one, other)]
            assert [(p.step, p.value) for p in points[0]] == [(p.step, p.value) for p in points[1]]
    table = load_runs(store, sweeps["sampled"]).set_index("trial_id")
    assert table.loc[["b", "d"], "run_id"].to_dict() == made
    assert table["outcome"].tolist() == ["converged"] * 6
    assert len(load_history(store, sweeps["sampled"])) == len(load_history(store, sweeps["all"]))


def test_verdicts_give_runs_in_their_turn_or_do_without(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep's own report may be written while its user asks for another one."""
    monkeypatch.setattr("orchestrator.storage.detail.SAMPLE", 2)
    info = make_sweep("a b c d", detail=Detail("sampled", 4))
    write(local, info, *(make_result(name) for name in "abcd"))
    sweep = find_sweep(local, info.sweep_id)
    (name, *_) = sorted(set("abcd") - set(trial_runs(local, sweep.parent_run_id)))
    verdict = Verdict("claim", True, 4, "found", Offender(name, None, "shows"))
    monkeypatch.setattr(report, "parse_tracking", lambda _: SimpleNamespace(points=30))
    with experiment_turn(local, sweep.experiment):
        assert report._with_runs(local, sweep, [verdict]) == (verdict,)
    (given,) = report._with_runs(local, sweep, [verdict])
    assert given.worst is not None
    assert given.worst.run_id == trial_runs(local, sweep.parent_run_id)[name].info.run_id


def test_factors_in_a_damaged_file_are_as_if_they_were_not_there(local: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    info = make_sweep("a b")
    write(local, info, make_result("a"))
    write(local, replace(info, parent_run_id=find_sweep(local, info.sweep_id).parent_run_id, attempt=2), make_result("b"))
    sweep = find_sweep(local, info.sweep_id)
    root = Path(local_file_uri_to_path(local.client.get_run(sweep.parent_run_id).info.artifact_uri))
    first, _ = sorted((root / "factors").iterdir())
    whole = dict(load_factors(local, sweep))
    assert set(whole) == {"a", "b"}
    for damage in (b"", first.read_bytes()[:-9]):
        first.write_bytes(damage)
        assert len(dict(load_factors(local, sweep))) == 1


def test_a_sample_is_spread_over_the_grid_and_over_each_of_its_axes() -> None:
    detail = Detail.of("auto", 100_000)
    assert detail.runs == "sampled"
    assert Detail.of("auto", 20_000).runs == "all"
    chosen = np.array([place for place in range(100_000) if detail.has_run(place, Outcome.CONVERGED)])
    assert abs(len(chosen) - 1000) <= 2
    for size in (2, 3, 10, 25, 100):
        shares = np.bincount(chosen % size, minlength=size) / len(chosen)
        assert shares.min() > 0.25 / size, f"every value of an axis of {size} is there"
    assert all(detail.has_run(place, outcome) for place in range(99) for outcome in (Outcome.FAILED, Outcome.DIVERGED))
    assert not any(Detail.of("none", 9).has_run(place, Outcome.FAILED) for place in range(9))


def test_a_sweep_without_tables_is_read_from_its_runs(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult, experiment: str
) -> None:
    sweep = make_sweep("a b c d")
    write(local, sweep, make_result("a"), make_result("b"), make_result("c", Outcome.FAILED, rows=0, error="ValueError: no", factors={}))
    found = find_sweep(local, sweep.sweep_id)
    local.client.delete_run(trial_runs(local, found.parent_run_id)["b"].info.run_id)
    runs, history = load_runs(local, found), load_history(local, found)
    assert runs["outcome"].tolist() == ["converged", "deleted", "failed", None]
    reused = find_finished(local, experiment, set("abcd"), sweep.record)
    assert set(reused) == {"a"}
    # As it was before there were tables.
    shutil.rmtree(f"{local.client.get_run(found.parent_run_id).info.artifact_uri}/results")
    local.client.delete_tag(found.parent_run_id, "orchestrate.format")
    assert load_runs(local, found).equals(runs)
    assert load_history(local, found).equals(history)
    assert find_finished(local, experiment, set("abcd"), sweep.record) == reused
    ((trial_id, _, text),) = failures(local, found)
    assert (trial_id, text) == ("c", "ValueError: no")
