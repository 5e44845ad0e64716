"""Traces as people ask for them: of some trials, at some steps, with columns of the table of trials beside them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.analysis.traces import load_traces
from orchestrator.errors import UsageError
from orchestrator.tracking.read.queries import SweepSummary, find_finished, find_sweep
from orchestrator.tracking.store import Store
from orchestrator.tracking.write.parent import SweepInfo
from orchestrator.tracking.write.writer import SweepWriter
from workloads.training.results import TrialResult
from workloads.training.trial_state import Outcome

MakeResult = Callable[..., TrialResult]
MakeSweep = Callable[..., SweepInfo]


def write(store: Store, sweep: SweepInfo, *results: TrialResult) -> SweepSummary:
    with SweepWriter(store, sweep) as writer:
        writer.add("pack-0", results)
        writer.close("FINISHED", {"trials": len(sweep.trials)})
    return find_sweep(store, sweep.sweep_id)


def test_columns_of_the_table_of_trials_stand_beside_traces(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult, experiment: str
) -> None:
    first = make_sweep("a b")
    one = write(local, first, make_result("a"), make_result("b"))
    second = make_sweep("d b c", reused=find_finished(local, experiment, {"b"}, first.record))
    other = write(local, second, make_result("c"), make_result("d"))
    traces, lost = load_traces(local, [one, other], where="seed < 2", columns=["factorization.depth", "seed", "abs(seed - 1)"])
    measures = ["loss", "det", "nuclear"]
    assert list(traces.columns) == ["trial_id", "step", *measures, "sweep", "factorization.depth", "seed", "abs(seed - 1)"]
    # The trial that is in both counts once, as one of the first.
    assert traces.groupby("sweep")["trial_id"].unique().map(list).to_dict() == {one.sweep_id: ["a", "b"], other.sweep_id: ["d"]}
    assert traces.groupby("trial_id")["abs(seed - 1)"].unique().map(list).to_dict() == {"a": [1.0], "b": [0.0], "d": [1.0]}
    assert not lost
    spec, _ = load_traces(local, [one], trials=["a"], spec=True)
    assert {"seed", "dtype", "factorization.depth", "spec.loss"} <= set(spec.columns)
    assert not {"outcome", "run_id", "sweep"} & set(spec.columns)


def test_traces_are_picked_by_trials_and_steps(local: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    made = {name: make_result(name, outcome) for name, outcome in (("aa", Outcome.CONVERGED), ("ab", Outcome.DIVERGED))}
    sweeps = [write(local, make_sweep("aa ab"), *made.values())]
    traces, _ = load_traces(local, sweeps, when="loss > 1e300")
    # Where a trial diverged its measures count as infinite, and are shown as they were measured.
    (row,) = traces.to_dict("records")
    assert (row["trial_id"], row["loss"]) == ("ab", made["ab"].trace.values[-1, 0])
    some, _ = load_traces(local, sweeps, trials="ab", when="step > 100")
    assert set(some["trial_id"]) == {"ab"}
    assert some["step"].tolist() == [step for step in made["ab"].trace.steps if step > 100]
    for asked, message in (
        ({"trials": ["a"]}, "'a' begins the ids of several trials: aa, ab"),
        ({"when": "loss"}, "when: 'loss' is a number"),
        ({"when": "los < 1"}, "the runs have no los; did you mean loss?"),
        ({"columns": ["loss"]}, "loss is in the traces already"),
    ):
        with pytest.raises(UsageError, match=message):
            load_traces(local, sweeps, **asked)
