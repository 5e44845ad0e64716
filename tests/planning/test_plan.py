"""Planning: which trials share a pack, how packs are cut, what is promised."""

from __future__ import annotations

import json

import numpy as np
import pytest

from orchestrator.errors import UsageError
from orchestrator.grid import parse_grid
from orchestrator.planning.pack import PACK_BYTES, Crew, steps_left
from orchestrator.planning.plan import default_workers, make_plan
from tests.cli.commands import GRID
from tests.specs import OPTIMIZERS, spec, trials
from workloads.engines.choice import on_device
from workloads.engines.rates import DEFAULTS
from workloads.training.recording import Recording
from workloads.training.trial_state import Outcome, Paused, Trace

TENSOR = {"kind": "tensor_completion", "shape": [4, 4, 4], "target": {"rank": 1}, "observed": 30}


def plan(specs, workers=1, engine="batched", recording=Recording(())):
    made = make_plan(trials(specs), recording, engine, [Crew(workers)])
    packed = [t.trial_id for p in made.packs for t in p.trials]
    assert sorted(packed) == sorted(t.trial_id for t in trials(specs)), "every trial is in exactly one pack"
    return made


@pytest.mark.parametrize(
    "other",
    [
        spec(seed=3),
        spec(optimizer__lr=0.3),
        spec(init={"kind": "orthogonal", "scale": 1.0, "balanced": True}),
        spec(problem__observed=4),
        spec(problem__seed=9),
        spec(loss="mse"),
        spec(stop={"loss": 1e-3, "steps": 7}),
    ],
)
def test_what_differs_only_in_numbers_shares_a_pack(other):
    assert len(plan([spec(), other]).packs) == 1


@pytest.mark.parametrize(
    "other",
    [
        spec(factorization__depth=3),
        spec(factorization={"kind": "deep_matrix", "depth": 2, "widths": 7}),
        spec(factorization={"kind": "cp"}),
        spec(problem__shape=[4, 5]),
        spec(optimizer=OPTIMIZERS["adam"]),
        spec(dtype="float32"),
        spec(problem={"kind": "matrix_sensing", "shape": [4, 4], "target": {"rank": 1}, "observed": 5}),
    ],
)
def test_what_needs_another_program_gets_another_pack(other):
    assert len(plan([spec(), other]).packs) == 2


class Counting(Recording):
    """Counts how often it is asked what it records."""

    asked = 0

    def names(self, spec):
        type(self).asked += 1
        return super().names(spec)


def test_trials_that_share_their_sections_are_looked_at_once():
    text = (
        GRID.replace("seeds: 3", "seeds: 50").replace("depth: 2}", "}") + "grid: {factorization.depth: [2, 3], optimizer.lr: [0.1, 0.2]}\n"
    )
    grid = parse_grid(text)
    made = make_plan(grid.trials, Counting(("nuclear",)), "auto", [Crew(1)])
    assert sorted(len(pack.trials) for pack in made.packs) == [100, 100]
    assert Counting.asked == 4, "of each pack once more"


def test_what_records_other_measures_gets_another_pack():
    full = spec(problem__observed=16)
    assert len(plan([spec(), full], recording=Recording(("unobserved_max",))).packs) == 2
    assert len(plan([spec(), full], recording=Recording(("nuclear",))).packs) == 1


def test_large_sensing_problems_are_not_mixed():
    def sensing(seed, observed):
        return spec(problem={"kind": "matrix_sensing", "shape": [40, 40], "target": {"rank": 1}, "observed": observed, "seed": seed})

    assert len(plan([sensing(0, 200), sensing(1, 200)]).packs) == 2
    assert len(plan([sensing(0, 20), sensing(1, 20)]).packs) == 1


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_every_worker_gets_something_to_do(workers):
    problem = {"kind": "matrix_completion", "shape": [60, 60], "target": {"rank": 1}, "observed": 0.5}
    made = plan([spec(problem=problem, seed=n, stop={"steps": 100_000}) for n in range(64)], workers)
    assert len(made.packs) >= workers
    assert made.seconds < 1.35 * plan([t.spec for p in made.packs for t in p.trials]).seconds / workers


def test_the_longest_start_first_and_the_plan_is_the_same_every_time():
    specs = [spec(seed=n, factorization__depth=1 + n % 3, stop={"steps": 1000 * (1 + n % 7)}) for n in range(50)]
    made = plan(specs, 2)
    seconds = [p.seconds for p in made.packs]
    assert seconds == sorted(seconds, reverse=True)
    assert plan(specs, 2) == made


def test_memory_bounds_the_lanes_and_the_rest_wait():
    huge = [
        spec(problem={"kind": "matrix_completion", "shape": [900, 900], "target": {"rank": 1}, "observed": 0.5}, seed=n) for n in range(40)
    ]
    (pack,) = plan(huge).packs
    assert 1 <= pack.width < 40
    assert pack.bytes <= PACK_BYTES


def test_a_time_budget_alone_gives_no_estimate():
    assert plan([spec(stop={"seconds": 5})]).seconds is None
    assert plan([spec()]).seconds > 0


def test_nothing_to_run():
    made = make_plan([], Recording(), "auto", [Crew(2)], reused=7)
    assert (made.packs, made.trials, made.reused, made.seconds, made.peak_bytes) == ((), 7, 7, 0.0, 0)


def test_as_json_is_plain_data_and_names_every_trial():
    data = json.loads(json.dumps(plan([spec(), spec(factorization__depth=3)]).as_json()))
    assert sorted(i for p in data["packs"] for i in p["trial_ids"]) == ["t0", "t1"]
    assert data["packs"][0]["parameters"] in ([[4, 4]] * 2, [[4, 4]] * 3)


@pytest.mark.parametrize(
    ("one", "engine"),
    [
        (spec(), "fused"),
        (spec(optimizer=OPTIMIZERS["adam"]), "fused"),
        (spec(problem=TENSOR, factorization={"kind": "cp"}), "fused"),
        (spec(problem={**TENSOR, "kind": "tensor_sensing"}, factorization={"kind": "cp"}), "batched"),
        (spec(factorization={"kind": "linear"}, init=None), "batched"),
        (spec(problem__shape=[200, 200]), "fused"),
        (spec(problem__shape=[1200, 1200]), "batched"),
    ],
)
def test_the_fastest_engine_is_chosen(one, engine):
    pytest.importorskip("warp")
    assert plan([one], engine="auto").packs[0].engine == engine


def test_few_large_lanes_are_left_to_matrix_products_and_many_are_not():
    pytest.importorskip("warp")
    large = [spec(problem__shape=[100, 100], stop={"steps": 10_000}, seed=n) for n in range(64)]
    assert plan(large[:1], engine="auto").packs[0].engine == "batched"
    assert plan(large, engine="auto").packs[0].engine == "fused"


def test_an_engine_that_cannot_is_refused():
    with pytest.raises(UsageError, match="no kernels for matrix_completion with factorization linear"):
        plan([spec(factorization={"kind": "linear"}, init=None)], engine="fused")


def test_a_gpu_gets_what_there_are_kernels_for():
    tensor = spec(problem=TENSOR, factorization={"kind": "cp"})
    assert [on_device("fused", one, cuda=True) for one in (tensor, spec())] == ["batched", "fused"]
    assert on_device("fused", tensor, cuda=False) == "fused"


def test_packs_go_to_the_device_that_is_through_with_them_first():
    pytest.importorskip("warp")
    crews = [Crew(1, "cuda", DEFAULTS["cuda"], 16 << 30), Crew(8)]
    few = [spec(seed=n, stop={"steps": 100_000}) for n in range(8)]
    many = [spec(factorization__depth=3, seed=n, stop={"steps": 10_000_000}) for n in range(5000)]
    wide = [spec(problem__shape=[200, 200], seed=n, stop={"steps": 100_000}) for n in range(64)]
    made = make_plan(trials([*few, *many, *wide]), Recording(()), "auto", crews)
    devices = {(p.trials[0].spec.shape[0], p.trials[0].spec.factorization.depth): p.device for p in made.packs}
    assert devices == {(4, 2): "cpu", (4, 3): "cuda", (200, 2): "cuda"}
    assert made.workers == 9


@pytest.mark.parametrize(("device", "most"), [("cpu", 2048), ("cuda", 10_000)])
def test_no_pack_has_more_trials_than_its_device_has_use_for(device, most):
    many = trials([spec(seed=n, stop={"steps": 10}) for n in range(4500)])
    packs = make_plan(many, Recording(()), "batched", [Crew(1, device, DEFAULTS[device], 16 << 30)]).packs
    assert max(len(pack.trials) for pack in packs) == min(most, 4500)
    assert sorted(trial.trial_id for pack in packs for trial in pack.trials) == sorted(trial.trial_id for trial in many)


def test_a_pack_for_a_gpu_is_as_wide_as_its_memory():
    specs = [spec(problem__shape=[200, 200], seed=n) for n in range(64)]
    (pack,) = make_plan(trials(specs), Recording(()), "batched", [Crew(1, "cuda", DEFAULTS["cuda"], 100 << 20)]).packs
    assert 1 < pack.width < 64
    assert pack.bytes <= 100 << 20 < pack.bytes + pack.lane_bytes
    assert pack.lanes_in(1) == 1
    assert pack.lanes_in(1 << 40) == 64


def test_the_plan_says_where_its_estimate_comes_from():
    assert "assumed" in plan([spec()]).as_json()["rates"]["cpu"]["source"]


def test_what_has_ended_takes_no_time():
    one, other = trials([spec(), spec(seed=1)])
    ended = Paused(other.trial_id, other.spec, 40, 0, 0, 1.0, 1.0, [], Trace(("loss",), np.array([0]), np.ones((1, 1))), Outcome.CONVERGED)
    alone, both = (make_plan(some, Recording(()), "batched", [Crew(1)]) for some in ([one], [one, ended]))
    assert (both.ended, both.seconds) == (1, pytest.approx(alone.seconds))
    assert steps_left(ended) == 0


def test_a_core_is_shared_by_as_many_packs_as_it_has_parts_for(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    assert [default_workers(cpus) for cpus in (0.07, 0.7, 1.0, 2.0, 100.0)] == [100, 10, 7, 3, 1]
