"""What is done to gradients and step sizes: schedules, clipping, weight decay, mini-batches, label noise. Against plain loops."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch

from orchestrator.grid.identity import trial_id
from tests.contract.references import FACTORIZATIONS, LOSSES, OPTIMIZERS, PROBLEMS, SHAPES, beside
from tests.contract.references import spec as small
from tests.specs import spec, trials
from tests.workloads.test_engines import ENGINES, advance, lanes_of
from workloads.engines.base import create
from workloads.engines.batched import BatchedEngine
from workloads.engines.chance import Chance, mixed
from workloads.engines.choice import chosen, why_not_fused
from workloads.engines.fused import FusedEngine
from workloads.optimizers.schedule import RateSchedule
from workloads.stop import Stop
from workloads.training.loop import train
from workloads.training.policy import Policy
from workloads.training.recording import Recording
from workloads.training.results import Checkpoint, Finished, Request

STEPS = 60
RANDOM = ("batch", "label_noise", "all")
PROBLEM_KINDS = ("matrix_completion", "matrix_sensing", "tensor_completion")
WHOLE = {"matrix_completion": "deep_matrix", "matrix_sensing": "deep_matrix", "tensor_completion": "cp"}
OPTIONS = {
    "clip": {"clip": 0.05},
    "weight_decay": {"weight_decay": 0.1},
    "cosine": {"schedule": {"warmup": 7, "cosine": 50, "floor": 0.1}},
    "milestones": {"schedule": {"milestones": [10, 40], "factors": [0.5, 0.1]}},
    "batch": {"batch": 5},
    "label_noise": {"label_noise": 0.05},
    "all": {"clip": 1.0, "weight_decay": 0.01, "schedule": {"warmup": 20, "milestones": [45], "factors": [0.2]}, "batch": 6, "label_noise": 0.1},
}  # fmt: skip


def one_of(problem, optimizer, options, loss="half_sse"):
    keys = small(problem, WHOLE[problem], optimizer, loss).optimizer.model_dump(exclude_none=True)
    return small(problem, WHOLE[problem], optimizer, loss, optimizer=keys | options, seed=4)


def bits(seed, use, step, index):
    """64 random bits in Python's whole numbers, as the paper on SplitMix64 has them."""
    gamma, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1

    def mix(z):
        z = (z & mask ^ (z & mask) >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    lane = mix(mix(seed) + use * gamma)
    drawn = mix(mix(lane + (step + 1) * gamma) + (index + 1) * gamma)
    return drawn, mix(drawn + gamma)


def normal(seed, step, index):
    first, second = bits(seed, 2, step, index)
    return math.sqrt(-2 * math.log(((first >> 11) + 1) / 2**53)) * math.cos(2 * math.pi * (second >> 11) / 2**53)


def factor(schedule, step):
    value = min(1.0, (step + 1) / schedule.warmup) if schedule.warmup else 1.0
    if schedule.cosine:
        done = min(max(step - (schedule.warmup or 0), 0), schedule.cosine) / schedule.cosine
        value *= schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(done * math.pi))
    for milestone, share in zip(schedule.milestones or (), schedule.factors or (), strict=True):
        last = share if step >= milestone else None
        value = value if last is None else (factor(schedule.model_copy(update={"milestones": None, "factors": None}), step)) * last
    return value


def plain(one, steps):
    """A trial as a researcher would write it: one run, one observation after the other where numbers are drawn."""
    options = one.optimizer
    problem = one.problem.realize({})
    params = [torch.tensor(f, requires_grad=True) for f in one.initial_factors({})]
    optimizer = OPTIMIZERS[options.kind].made(params, options)
    if options.kind != "adamw":
        for group in optimizer.param_groups:
            group["weight_decay"] = options.weight_decay or 0.0
    predict, observed = PROBLEMS[one.problem.kind].seen(problem, torch.float64)
    product = FACTORIZATIONS[one.factorization.kind].product
    numbers = list(range(problem.count)) if one.problem.sensing else np.flatnonzero(problem.mask).tolist()
    for step in range(steps):
        seen, values = predict(product(*params)), observed
        if options.label_noise:
            values = values + options.label_noise * torch.tensor([normal(one.seed, step, n) for n in numbers], dtype=torch.float64)
        scale = 1.0
        if options.batch:
            drawn = sorted(range(len(numbers)), key=lambda n: bits(one.seed, 1, step, numbers[n])[0] >> 1)[: options.batch]
            seen, values = seen[drawn], values[drawn]
            scale = 1.0 if one.loss.kind in ("mse", "logistic") else len(numbers) / options.batch
        optimizer.zero_grad()
        (scale * LOSSES[one.loss.kind].of(seen, values, one.loss)).backward()
        if options.clip:
            norm = math.sqrt(sum(float((p.grad**2).sum()) for p in params))
            for p in params:
                p.grad *= min(1.0, options.clip / norm)
        if options.schedule:
            for group in optimizer.param_groups:
                group["lr"] = options.lr * factor(options.schedule, step)
        optimizer.step()
    return product(*params).detach().numpy(), LOSSES[one.loss.kind].of(predict(product(*params)), observed, one.loss).item()


CASES = [
    *(("matrix_completion", "gd", name, "half_sse") for name in OPTIONS),
    *((problem, "gd", name, "mse") for problem in PROBLEM_KINDS for name in RANDOM),
    *(("matrix_sensing", "gd", name, "huber") for name in RANDOM),
    ("matrix_completion", "gd", "batch", "logistic"),
    *(("matrix_completion", kind, name, "half_sse") for kind in ("momentum", "nesterov", "adam", "adamw") for name in OPTIONS),
]


@pytest.mark.parametrize(("problem", "kind", "name", "loss"), CASES)
def test_engines_take_the_steps_of_a_plain_loop(problem, kind, name, loss):
    options = {key: value for key, value in OPTIONS[name].items() if (kind, key) != ("adamw", "weight_decay")}
    one = one_of(problem, kind, options, loss)
    wanted, value = plain(one, STEPS)
    without, _ = plain(one_of(problem, kind, {}, loss), STEPS)
    assert name in ("weight_decay",) * (kind == "adamw") or not np.allclose(wanted, without, rtol=1e-6)
    # A kernel for each takes its time to compile.
    kernels = ("fused",) if why_not_fused(one) is None and (kind == "gd" or name == "all") else ()
    for engine in ("autograd", "batched", *kernels):
        lanes = advance(create(engine), lanes_of([one, beside(one)]), STEPS)
        np.testing.assert_allclose(one.factorization.products(lanes.params)[0], wanted, rtol=1e-8, atol=1e-12, err_msg=engine)
        assert lanes.loss[0] == pytest.approx(value, rel=1e-8)


@pytest.mark.parametrize("name", ["cosine", "all"])
def test_a_thousand_steps_agree_to_1e_8(name):
    one = one_of("matrix_completion", "gd", OPTIONS[name])
    wanted, _ = plain(one, 1000)
    for engine in ("batched", "fused"):
        lanes = advance(create(engine), lanes_of([one, beside(one)]), 1000)
        np.testing.assert_allclose(one.factorization.products(lanes.params)[0], wanted, rtol=1e-8, atol=1e-12, err_msg=engine)


@pytest.mark.parametrize(
    ("problem", "factorization", "optimizer", "dtype", "threads"),
    [
        ("matrix_completion", {"kind": "deep_matrix", "depth": 3, "widths": [9, 11]}, "adamw", "float64", False),
        ("matrix_sensing", {"kind": "deep_matrix", "depth": 3, "widths": [9, 11]}, "group_rmsprop", "float64", False),
        ("tensor_completion", {"kind": "tucker", "ranks": [2, 2, 2]}, "gd", "float64", False),
        ("tensor_completion", {"kind": "tucker", "ranks": [2, 2, 2]}, "momentum", "float32", True),
        ("tensor_completion", {"kind": "hierarchical", "arity": 3, "widths": [7]}, "group_rmsprop", "float32", False),
        ("tensor_sensing", {"kind": "hierarchical", "arity": 3, "widths": [7]}, "gd", "float64", True),
        ("tensor_completion", {"kind": "cp", "components": 20}, "momentum", "float64", False),
        ("tensor_completion", {"kind": "cp", "components": 5}, "group_rmsprop", "float32", False),
    ],
)
def test_every_kernel_draws_what_matrix_products_do(problem, factorization, optimizer, dtype, threads):
    """In straight-line code and in loops, by hand and from a trace; lanes have schedules of their own, and problems of several sizes."""
    options = {key: value for key, value in OPTIONS["all"].items() if (optimizer, key) != ("adamw", "weight_decay")}
    schedules = [options["schedule"], OPTIONS["cosine"]["schedule"], {"milestones": [3, 5, 8], "factors": [0.5, 2, 1]}]
    keys = small(problem, factorization["kind"], optimizer).optimizer.model_dump(exclude_none=True) | options
    specs = [
        small(
            problem,
            factorization["kind"],
            optimizer,
            keys={key: value for key, value in factorization.items() if key != "kind"},
            optimizer=keys | {"schedule": schedule, "batch": 2 + n},
            problem={"kind": problem, "shape": list(SHAPES[PROBLEMS[problem].order]), "target": {"rank": 1}, "observed": 9 - n},
            dtype=dtype,
            seed=n,
        )
        for n, schedule in enumerate(schedules)
    ]
    wanted = advance(create("batched"), lanes_of(specs), STEPS)
    got = advance(FusedEngine(threads=threads), lanes_of(specs), STEPS)
    bound = 1e-10 if dtype == "float64" else 1e-4
    for one, other in zip(wanted.params, got.params, strict=True):
        np.testing.assert_allclose(other, one, rtol=bound, atol=bound / 10)
    np.testing.assert_allclose(got.loss, wanted.loss, rtol=bound)


@pytest.mark.parametrize(
    ("problem", "factorization"),
    [("matrix_sensing", "deep_matrix"), ("tensor_completion", "tucker"), ("tensor_completion", "cp")],
)
def test_mini_batches_of_what_is_no_square_are_the_same_in_every_engine(problem, factorization):
    keys = small(problem, factorization).optimizer.model_dump(exclude_none=True)
    one = small(problem, factorization, "gd", "huber", optimizer=keys | {"batch": 4})
    refused = why_not_fused(one)
    assert refused is None or factorization == "cp"
    whole, *others = [
        advance(create(engine), lanes_of([one, beside(one)]), STEPS) for engine in ENGINES if engine != "fused" or not refused
    ]
    for other in others:
        for mine, theirs in zip(other.params, whole.params, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(other.loss, whole.loss, rtol=1e-9)


def test_kernels_have_no_noise_on_what_is_observed_where_there_is_no_residual():
    one = one_of("matrix_sensing", "gd", {"label_noise": 0.05}, "huber")
    assert why_not_fused(one) == "its kernels take the noise off the residual, which loss huber has none of"
    assert chosen("auto", [one]) == "batched"


def ended(events):
    return {result.trial_id: result for event in events if isinstance(event, Finished) for result in event.results}


@pytest.mark.parametrize(
    ("problem", "name", "engine"),
    [
        *(("matrix_completion", name, "batched") for name in OPTIONS),
        ("matrix_sensing", "all", "batched"),
        ("tensor_completion", "all", "batched"),
        ("matrix_completion", "all", "fused"),
        ("matrix_sensing", "all", "fused"),
        ("tensor_completion", "all", "fused"),
    ],
)
def test_a_trial_has_the_same_bits_in_any_pack_and_wherever_it_goes_on(problem, name, engine):
    first = one_of(problem, "momentum", OPTIONS[name])
    specs = [first.model_copy(update={"seed": n}) for n in range(9)]
    # Levels of the loss that are reached inside a block put its lanes back to the block's start.
    recording, policy = Recording(("frobenius",), points=30), Policy(call_seconds=0.0, steps=16)
    whole = ended(train(trials(specs), recording, create(engine), policy=policy))
    for n in (0, 8):
        (alone,) = ended(train(trials(specs)[n : n + 1], recording, create(engine))).values()
        for name_, value in alone.factors.items():
            # Matrix products may have other bits in a batch, kernels have not.
            bounds = {"rtol": 0, "atol": 0} if engine == "fused" else {"rtol": 1e-12, "atol": 1e-15}
            np.testing.assert_allclose(value, whole[f"t{n}"].factors[name_], **bounds)
    asked = itertools.chain([None, None, Request.STOP], itertools.repeat(None))
    events = list(train(trials(specs), recording, create(engine), asked=lambda: next(asked), policy=policy))
    left = [t for event in events if isinstance(event, Checkpoint) for t in event.trials]
    assert {0 < trial.step < 100 for trial in left} == {True}
    after = ended(train(pickle.loads(pickle.dumps(left)), recording, create(engine), policy=policy))
    assert after.keys() == whole.keys()
    for key, result in after.items():
        for factor_, value in result.factors.items():
            np.testing.assert_array_equal(value, whole[key].factors[factor_])


def test_lanes_that_have_ended_change_no_step_of_others_in_their_group():
    first = one_of("matrix_sensing", "momentum", OPTIONS["all"])
    specs = [first.model_copy(update={"seed": n, "stop": Stop(steps=300 if n % 2 else 20 + n)}) for n in range(9)]
    by = [ended(train(trials(specs), Recording(points=5), create(engine))) for engine in ("fused", "batched")]
    for key, result in by[0].items():
        assert result.steps == by[1][key].steps
        for name, value in result.factors.items():
            np.testing.assert_allclose(value, by[1][key].factors[name], rtol=1e-10, atol=1e-13)


def test_mini_batches_are_of_their_size_without_bias_and_never_of_what_is_not_observed():
    lanes = lanes_of([one_of("matrix_completion", "gd", {"batch": 3}).model_copy(update={"seed": n}) for n in range(4)])
    seen = lanes.observations.seen
    counts = torch.full((4,), 8.0, dtype=torch.float64)
    chance = Chance([p.spec for p in lanes.prepared], lanes.hyper, torch.arange(12), seen, counts)
    drawn = torch.stack([chance.weights(torch.full((4,), step)) for step in range(3000)])
    assert ((drawn > 0).sum(2) == 3).all()
    assert (drawn[:, ~seen.expand(4, -1)] == 0).all()
    assert set(drawn.unique().tolist()) == {0.0, 8 / 3}
    mean = drawn.mean(0)[seen.expand(4, -1)]
    assert (mean - 1).abs().max() < 5 * math.sqrt(5 / 3 / 3000)
    assert not torch.equal(drawn[:, 0], drawn[:, 1])


def test_noise_is_normal_and_of_its_seed_step_and_index():
    lanes = lanes_of([one_of("matrix_completion", "gd", {"label_noise": 2.0}).model_copy(update={"seed": n}) for n in range(2)])
    chance = Chance([p.spec for p in lanes.prepared], lanes.hyper, torch.arange(5000), torch.ones(1, 5000, dtype=torch.bool), torch.ones(2))
    drawn = torch.stack([chance.noise(torch.tensor([step, step])) for step in range(20)]) / 2
    assert drawn[7, 1, 11] == pytest.approx(normal(1, 7, 11), rel=1e-12)
    assert abs(drawn.mean()) < 5 / math.sqrt(drawn.numel())
    assert abs(drawn.var() - 1) < 5 * math.sqrt(2 / drawn.numel())
    assert abs((drawn**4).mean() - 3) < 5 * math.sqrt(96 / drawn.numel())
    flat = drawn.flatten(1)
    correlations = torch.corrcoef(flat) - torch.eye(20)
    assert correlations.abs().max() < 6 / math.sqrt(flat.shape[1])
    assert mixed(0) == 0


def test_options_change_no_id_and_no_number_where_they_are_not_given():
    bare = spec()
    assert trial_id(bare) == trial_id(spec(optimizer={"kind": "gd", "lr": 0.05, "clip": None}))
    assert '"optimizer":{"kind":"gd","lr":0.05}' in bare.canonical()
    ids = {trial_id(spec(optimizer={"kind": "gd", "lr": 0.05, **options})) for options in OPTIONS.values()}
    assert len(ids | {trial_id(bare)}) == len(OPTIONS) + 1


def test_only_what_draws_by_the_seed_depends_on_it():
    start = {"init": {"kind": "identity", "scale": 0.3}}
    assert not spec(**start).seeded
    assert spec(**start, optimizer__batch=3).seeded
    assert spec(**start, optimizer__label_noise=0.1).seeded


def test_lanes_with_and_without_an_option_are_of_different_programs_and_lanes_with_other_numbers_are_not():
    keys = [spec(optimizer__clip=clip).lane_key for clip in (None, 0.1, 2.0)]
    assert keys[0] != keys[1] == keys[2]
    assert spec(optimizer__clip=1.0).sections != spec().sections
    assert why_not_fused(spec(optimizer__batch=3)) is None


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({}, "optimizer.schedule: is empty"),
        ({"warmup": 3, "floor": 0.1}, "optimizer.schedule.floor: has no effect without optimizer.schedule.cosine"),
        ({"milestones": [3, 9], "factors": [0.1]}, "optimizer.schedule.factors: needs a factor for each milestone"),
        ({"milestones": [3, 9]}, "optimizer.schedule.milestones: needs a factor for each milestone"),
        ({"milestones": [9, 3], "factors": [0.1, 0.2]}, "optimizer.schedule.milestones: must rise"),
    ],
)
def test_schedules_that_say_nothing_or_contradict_themselves_are_refused(schedule, message):
    with pytest.raises(ValueError, match=message):
        spec(optimizer__schedule=schedule)


def test_a_mini_batch_is_no_larger_than_what_is_observed():
    with pytest.raises(ValueError, match=r"optimizer\.batch: is 10, but there are only 9 observations"):
        spec(optimizer__batch=10)
    spec(optimizer__batch=9)


def test_schedules_are_what_they_say():
    rising = RateSchedule(warmup=4)
    assert [rising.factor(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    falling = RateSchedule(warmup=2, cosine=10, floor=0.2)
    assert [round(falling.factor(step), 12) for step in (2, 7, 12, 99)] == [1.0, 0.6, 0.2, 0.2]
    stairs = RateSchedule(milestones=(3, 5), factors=(0.1, 2.0))
    assert [stairs.factor(step) for step in (2, 3, 4, 5)] == [1.0, 0.1, 0.1, 2.0]


def test_a_batch_of_all_observations_is_descent_without_one():
    whole, bare = (advance(BatchedEngine(), lanes_of([spec(**keys)]), 50) for keys in ({"optimizer__batch": 9}, {}))
    for one, other in zip(whole.params, bare.params, strict=True):
        np.testing.assert_array_equal(one, other)
