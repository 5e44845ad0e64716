"""What is computed of trials that have ended, and what is not, because their factors alone do not say it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from orchestrator.cli.commands.plan import _reused
from orchestrator.errors import UsageError
from orchestrator.grid.figures import Trajectories
from orchestrator.grid.traced import NOTHING_TRACED, traced
from orchestrator.sweeps.at_ends import ended_with_less
from orchestrator.sweeps.measure import _check
from orchestrator.tracking import layout
from orchestrator.tracking.read.queries import find_finished
from orchestrator.tracking.read.reuse import Reuse, why_again
from orchestrator.tracking.write.writer import SweepWriter
from tests.specs import spec, trials
from workloads import measures
from workloads.engines.base import create
from workloads.measures.base import Measure, enter, withdraw
from workloads.training.afterwards import measure_kept
from workloads.training.loop import train
from workloads.training.recording import Recording
from workloads.training.results import Finished
from workloads.trial import Trial

BEFORE = Recording(("nuclear", "det"))


def trained(some, names=("error",)):
    each = [train([trial], Recording(tuple(names), points=5), create("batched")) for trial in trials(some)]
    ended = (event.results for events in each for event in events if isinstance(event, Finished))
    return {result.trial_id: result for results in ended for result in results}


def test_trials_are_run_again_for_what_only_training_knows(local, make_sweep, make_result):
    info = make_sweep("a b", record=BEFORE.as_json())
    adam = info.trials[1].spec.model_copy(update={"optimizer": spec(optimizer={"kind": "adam", "lr": 0.1}).optimizer})
    info = replace(info, trials=[info.trials[0], replace(info.trials[1], spec=adam)])
    with SweepWriter(local, info) as writer:
        writer.add("pack-0", [make_result("a"), make_result("b")])
        writer.close("FINISHED")
    asked = [Trial(row.trial_id, row.spec) for row in info.trials]

    def less(*added):
        found = ended_with_less(local, [info.experiment], asked, replace(BEFORE, measures=(*BEFORE.measures, *added)), NOTHING_TRACED)
        return {key: one.missing for key, one in found.items()}

    assert less("frobenius") == {"a": ("frobenius",), "b": ("frobenius",)}
    # Of Adam no time is known, so that it lacks nothing.
    assert less("frobenius", "time") == {"b": ("frobenius",)}
    assert less("frobenius", "loss") == {"a": ("frobenius",), "b": ("frobenius",)}


def test_a_figure_of_some_trials_has_only_these_run_again(local, make_sweep, make_result):
    info = make_sweep("a b", record=BEFORE.as_json())
    rows = [replace(row, spec=row.spec.model_copy(update={"seed": seed})) for seed, row in enumerate(info.trials)]
    with SweepWriter(local, replace(info, trials=rows)) as writer:
        writer.add("pack-0", [make_result("a"), make_result("b")])
        writer.close("FINISHED")
    asked = [Trial(row.trial_id, row.spec) for row in rows]
    recording = replace(BEFORE, measures=(*BEFORE.measures, "frobenius"))

    def curves(where):
        return traced({"figures": {"curves": Trajectories(kind="trajectories", y=("frobenius",), where=where)}}, asked, recording.measures)

    for where, measured in [
        (None, set()),
        ("seed == 0", {"b"}),
        ("seed > 0 and outcome == 'converged'", {"a"}),
        ("spec.loss == 'mse'", {"a", "b"}),
        ("factorization.components == 3 or init.kind == 'orthogonal'", {"a", "b"}),
        ("problem.shape == '[7, 7]' and nuclear < 1", {"a", "b"}),
        ("not nuclear > 1", set()),
    ]:
        found = ended_with_less(local, [info.experiment], asked, recording, curves(where))
        assert set(found) == measured, where
        again = why_again(local, [info.experiment], {"a", "b"} - measured, layout.recording_tag(recording.as_json()), curves(where))
        assert again == Counter(
            {"recorded without frobenius, and figures.curves is of whole traces": 2 - len(measured)} if len(measured) < 2 else {}
        )


def test_what_a_figure_of_some_trials_needs_is_reused_for_the_others(local, make_sweep, make_result):
    results = [make_result("a"), make_result("b")]
    for result in results:
        result.trace.values[:-1, 1] = np.nan
    info = make_sweep("a b", tags={layout.AT_ENDS: '["nuclear"]'})
    rows = [replace(row, spec=row.spec.model_copy(update={"seed": seed})) for seed, row in enumerate(info.trials)]
    with SweepWriter(local, replace(info, trials=rows)) as writer:
        writer.add("pack-0", results)
        writer.close("FINISHED")
    asked = [Trial(row.trial_id, row.spec) for row in rows]
    question = Trajectories(kind="trajectories", y=("nuclear",), where="seed == 1")
    needs = traced({"figures": {"curves": question}}, asked, info.record["measures"])
    assert set(find_finished(local, info.experiment, {"a", "b"}, info.record, needs)) == {"a"}


@pytest.mark.parametrize("name", ["loss", "time"])
def test_what_only_training_knows_is_not_measured_afterwards(name):
    with pytest.raises(UsageError, match=re.escape("factors alone say nothing of it")):
        _check(name, [spec()])


def test_trials_of_one_program_are_measured_by_what_is_defined_for_each():
    regression = {"kind": "regression", "shape": [4], "target": {}, "observed": 3}
    changes: list[dict[str, Any]] = [{}, {"problem": {**regression, "held_out": 4}}, {"init__scale": 0.2}]
    some = [spec(**{"problem": regression, "factorization": {"kind": "diagonal", "depth": 2}, **change}) for change in changes]
    assert len({one.lane_key for one in some}) == 1
    names = ("error", "held_out_error")
    done = trained(some, names)
    specs = {f"t{n}": one for n, one in enumerate(some)}
    found = dict(measure_kept(names, [(key, result.factors) for key, result in done.items()], specs, {}))
    assert {key: set(values) for key, values in found.items()} == {"t0": {"error"}, "t1": set(names), "t2": {"error"}}
    for key, values in found.items():
        assert values == pytest.approx({name: done[key].trace.final()[name] for name in values}, rel=1e-10)


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_a_measure_of_the_users_own_sees_the_loss_of_factors(loss):
    enter(Measure("own_loss", "own_loss", lambda x: x.loss.clone(), "the loss", code="0" * 64))
    try:
        one = spec(loss={"kind": loss})
        (result,) = trained([one], ["own_loss"]).values()
        ((_, values),) = measure_kept(["own_loss"], [("t0", result.factors)], {"t0": one}, {})
    finally:
        withdraw(measures.find("own_loss")[0])
    assert values["own_loss"] > 0
    np.testing.assert_allclose(values["own_loss"], result.trace.final()["loss"], rtol=1e-10)


def test_a_plan_says_how_many_trials_are_left_to_train():
    found = Reuse(14, 2, Counter(), Counter({("nuclear",): 9}))
    assert list(_reused(found))[-1] == "3 trials are left to train: packs, memory and time below are theirs"
    assert list(_reused(replace(found, reused=4)))[-1] == "1 trial is left to train: packs, memory and time below are its own"
    assert list(_reused(replace(found, reused=5)))[-1] == "nothing is left to train"
    assert list(_reused(Reuse(14, 0, Counter()))) == []
