"""Gradient flow: against SciPy's integrator, its conservation laws, descent of small steps, and wherever its trials go on."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import scipy.integrate
import torch

from tests.contract.references import FACTORIZATIONS, loss_of
from tests.specs import spec, trials, two_by_two
from tests.workloads.test_engines import advance, lanes_of
from workloads import measures
from workloads.engines.base import create
from workloads.engines.choice import why_not_fused
from workloads.optimizers.numerics.dormand_prince import DormandPrince
from workloads.stop import holds_from
from workloads.training.loop import train
from workloads.training.policy import Policy
from workloads.training.recording import Recording
from workloads.training.results import Checkpoint, Finished, Request
from workloads.training.trial_state import Outcome

FLOW = {"kind": "gradient_flow", "lr": 1e-2, "rtol": 1e-8, "atol": 1e-11}


def flow(**changes):
    return spec(**{"factorization__depth": 3, "init__scale": 0.5, "optimizer": FLOW, **changes})


def rows(lanes):
    return [np.concatenate([p[n].numpy().ravel() for p in lanes.params]) for n in range(len(lanes))]


def times(lanes):
    return lanes.times(np.arange(len(lanes)))


def integrated(one, until):
    """The parameters in a row at a time, by another method, of order eight and higher precision, from autograd's gradients."""
    start = [torch.from_numpy(f) for f in one.initial_factors({})]
    loss, product = loss_of(one, one.problem.realize({}), torch.float64), FACTORIZATIONS[one.factorization.kind].product

    def slope(_, row):
        parts = torch.from_numpy(row).split([f.numel() for f in start])
        leaves = [part.view(f.shape).clone().requires_grad_() for part, f in zip(parts, start, strict=True)]
        return -np.concatenate([g.numpy().ravel() for g in torch.autograd.grad(loss(product(*leaves)), leaves)])

    begin = np.concatenate([f.numpy().ravel() for f in start])
    return scipy.integrate.solve_ivp(slope, (0, until), begin, "DOP853", rtol=1e-12, atol=1e-14).y[:, -1]


@pytest.mark.parametrize("changes", [{}, {"loss": "logistic", "problem__signs": True}, {"factorization": {"kind": "cp", "components": 3}}])
def test_it_is_scipys_flow_to_its_tolerance(changes):
    """Each lane at a time of its own."""
    errors = []
    for rtol in (1e-5, 1e-8):
        one = flow(**changes, optimizer=FLOW | {"rtol": rtol, "atol": rtol / 1000})
        specs = [one, one.model_copy(update={"seed": 3})]
        lanes = advance(create("batched"), lanes_of(specs), 40)
        pairs = zip(specs, times(lanes), rows(lanes), strict=True)
        errors.append(max(np.abs(integrated(each, t) - row).max() / np.abs(row).max() for each, t, row in pairs))
        assert errors[-1] < 20 * rtol
        assert times(lanes)[0] != times(lanes)[1]
    assert errors[1] < errors[0] / 30


def test_a_step_that_is_too_long_is_taken_again():
    one = flow(optimizer=FLOW | {"lr": 50.0})
    lanes = lanes_of([one])
    start = rows(lanes)[0]
    advance(create("batched"), lanes, 1)
    np.testing.assert_array_equal(rows(lanes)[0], start)
    assert times(lanes)[0] == 0
    assert float(lanes.state["size"][0]) == pytest.approx(10.0)
    advance(create("batched"), lanes, 30)
    assert times(lanes)[0] > 0.1
    assert np.isfinite(lanes.loss[0])


def test_a_gradient_of_zero_leaves_time_finite():
    """Steps ten times as long as the last would be infinite after 311."""
    size, time = (torch.zeros(1, dtype=torch.float64) for _ in range(2))
    state = {"size": [size], "time": [time], "refused": [torch.zeros_like(size)]}
    hyper = {name: torch.full_like(size, FLOW[name]) for name in ("lr", "rtol", "atol")}
    hyper["until"] = torch.full_like(size, math.inf)
    params, grads = [torch.ones(1, 3, dtype=torch.float64)], [torch.zeros(1, 3, dtype=torch.float64)]
    step = DormandPrince(params, grads, state, hyper, lambda: None).step
    for _ in range(400):
        step()
    before = time.item()
    step()
    assert np.isfinite([size.item(), time.item()]).all()
    assert time.item() > before


@pytest.mark.parametrize("optimizer", [FLOW, {"kind": "gd", "lr": 0.02}])
def test_time_is_told_of_the_lanes_that_are_asked_for_alone(optimizer, monkeypatch):
    specs = [flow(seed=n, optimizer={**optimizer, "lr": 0.01 * (n + 1)}) for n in range(6)]
    lanes = advance(create("batched"), lanes_of(specs), 3)
    kind, told = type(specs[0].optimizer), []
    plain = kind.time_at
    monkeypatch.setattr(kind, "time_at", lambda self, step, state: told.append(self.lr) or plain(self, step, state))
    found = lanes.times(np.array([4, 1]))
    assert told == [0.05, 0.02]
    np.testing.assert_array_equal(found, times(lanes)[[4, 1]])
    assert len(set(times(lanes))) == 6


def differences(factors):
    return torch.stack([upper.mT @ upper - lower @ lower.mT for lower, upper in itertools.pairwise(factors)])


def test_flow_keeps_what_descent_does_not():
    """W_{l+1}^T W_{l+1} - W_l W_l^T (Arora, Cohen and Hazan 2018)."""
    drifts = []
    for optimizer in (FLOW, FLOW | {"rtol": 1e-11, "atol": 1e-14}, {"kind": "gd", "lr": 0.02}):
        lanes = lanes_of([flow(optimizer=optimizer)])
        before = differences(lanes.params)
        drifts.append(float((differences(advance(create("batched"), lanes, 150).params) - before).abs().max()))
    assert drifts[1] < 1e-10
    assert drifts[0] < 3e-7
    assert drifts[2] > 1e-3


@pytest.mark.parametrize("scale", [1e-5, 1e-8])
def test_the_determinants_sign_is_kept_from_balanced_starts_alone(scale):
    """Theorem 1 of arXiv 2005.06398 assumes such. From others the flow itself leads across zero, whatever the size of the start."""
    for balanced in (True, False):
        init = {"kind": "gaussian", "product_scale": scale, "det_sign": "positive", "balanced": balanced}
        one = two_by_two(init=init, optimizer=FLOW | {"rtol": 1e-10, "atol": 1e-16}, seed=3)
        lanes = advance(create("batched"), lanes_of([one]), 120)
        assert lanes.loss[0] > 0.9
        for row in (rows(lanes)[0], integrated(one, times(lanes)[0])):
            assert (np.linalg.det(row.reshape(-1, 2, 2)).prod() > 0) == balanced


def test_descent_of_ever_smaller_steps_comes_to_it():
    wanted = integrated(flow(), 2.0)
    apart = []
    for lr in (0.1, 0.05, 0.025):
        lanes = advance(create("batched"), lanes_of([flow(optimizer={"kind": "gd", "lr": lr})]), round(2 / lr))
        assert times(lanes)[0] == pytest.approx(2.0)
        apart.append(np.abs(rows(lanes)[0] - wanted).max())
    # Euler's method is of order one.
    assert apart[0] / apart[1] == pytest.approx(2, rel=0.2)
    assert apart[1] / apart[2] == pytest.approx(2, rel=0.1)


def ended(events):
    return {result.trial_id: result for event in events if isinstance(event, Finished) for result in event.results}


def test_a_trial_has_the_same_bits_in_any_pack_and_wherever_it_goes_on():
    specs = [flow(seed=n, stop={"steps": 90, "loss": 1e-6}) for n in range(5)]
    recording, policy = Recording(("time", "frobenius"), points=7), Policy(call_seconds=0.0, steps=16)
    whole = ended(train(trials(specs), recording, create("batched")))
    asked = itertools.chain([None, Request.STOP], itertools.repeat(None))
    events = list(train(trials(specs), recording, create("batched"), asked=lambda: next(asked), policy=policy))
    left = [trial for event in events if isinstance(event, Checkpoint) for trial in event.trials]
    assert left
    parts = ended(events) | ended(train(pickle.loads(pickle.dumps(left)), recording, create("batched"), policy=policy))
    alone = ended(train(trials(specs)[2:3], recording, create("batched")))
    for key, result in (parts | alone).items():
        assert result.steps == whole[key].steps
        np.testing.assert_array_equal(result.trace.values, whole[key].trace.values)
        for name, factor in result.factors.items():
            np.testing.assert_array_equal(factor, whole[key].factors[name])
    assert (np.diff(whole["t0"].trace.values[:, whole["t0"].trace.columns.index("time")]) >= 0).all()


def test_time_ends_trials_and_is_known_of_descent_too():
    for optimizer in (FLOW, {"kind": "gd", "lr": 0.01}):
        one = flow(optimizer=optimizer, stop={"when": "time > 1.5", "steps": 10_000})
        (result,) = ended(train(trials([one]), Recording(("time",)), create("batched"))).values()
        assert result.outcome is Outcome.CONVERGED
        assert 1.5 < result.trace.final()["time"] < 3
    assert measures.undefined("time", flow(optimizer={"kind": "adam", "lr": 0.01})) is not None
    for options in ({"schedule": {"warmup": 3}}, {"clip": 1.0}, {"weight_decay": 0.1}, {"batch": 3}, {"label_noise": 0.1}):
        reason = measures.undefined("time", flow(optimizer={"kind": "gd", "lr": 0.01, **options}))
        assert (
            reason
            == "is known with optimizer gradient_flow, and with gd of plain steps: not with schedule, clip, weight_decay, batch or label_noise"
        )


@pytest.mark.parametrize("engine", ["autograd", "batched"])
def test_a_trial_that_ends_by_time_ends_at_that_time_as_scipy_has_it(engine):
    """Each lane at its own, one of them by one step alone; one that ends otherwise goes on."""
    stops = [
        {"when": "time > 1.5"},
        {"when": "loss < 0 or 2 * 0.4 <= time"},
        {"abort": "time >= 1e-3", "when": "error < 0"},
        {"when": "time > 1 and loss < 0", "steps": 60},
    ]
    specs = [flow(seed=n, stop={"steps": 10_000} | stop) for n, stop in enumerate(stops)]
    done = ended(train(trials(specs), Recording(("time", "error"), points=5), create(engine)))
    for key, until in (("t0", 1.5), ("t1", 0.8), ("t2", 1e-3)):
        result, one = done[key], specs[int(key[1])]
        assert result.trace.final()["time"] == pytest.approx(until, rel=1e-15)
        row = np.concatenate([factor.ravel() for factor in result.factors.values()])
        np.testing.assert_allclose(row, integrated(one, until), rtol=0, atol=2e-7 * np.abs(row).max())
    assert [done[key].outcome for key in sorted(done)] == [Outcome.CONVERGED, Outcome.CONVERGED, Outcome.ABORTED, Outcome.EXHAUSTED]
    # Nothing that others end by changes a bit of this one.
    (alone,) = ended(
        train(trials([specs[3].model_copy(update={"stop": flow(stop={"steps": 60}).stop})]), Recording(("time",)), create(engine))
    ).values()
    for name, factor in alone.factors.items():
        np.testing.assert_array_equal(done["t3"].factors[name], factor)


def test_where_a_flow_ends_is_part_of_its_id_and_of_no_others():
    ends = [flow(stop={"steps": 9} | stop) for stop in ({}, {"when": "time > 2"}, {"when": "time > 2 and loss < 1"})]
    assert ['"until":' in one.canonical() for one in ends] == [False, True, False]
    assert "until" not in flow(optimizer={"kind": "gd", "lr": 0.1}, stop={"when": "time > 2", "steps": 9}).canonical()


@pytest.mark.parametrize(
    ("condition", "bound"),
    [
        ("time > 2", math.nextafter(2, 3)),
        ("time >= 2", 2),
        ("1 + 2 ** 2 <= time", 5),
        ("time > 3 or error < 1 or time >= 2", 2),
        ("time >= 3 and time >= 4", 4),
        ("time > 3 and error < 1", math.inf),
        ("time < 3", math.inf),
        ("2 * time > 3", math.inf),
        ("time > error", math.inf),
        ("not time < 3", math.inf),
        ("1 < time < 3", math.inf),
        ("time >= log(-1)", math.inf),
    ],
)
def test_a_condition_holds_from_a_time_on_whatever_else_is_true(condition, bound):
    assert holds_from(condition, "time") == bound


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": FLOW | {"batch": 3}}, "optimizer.batch: has no effect with optimizer.kind gradient_flow"),
        ({"optimizer": FLOW | {"clip": 1.0}}, "optimizer.clip: has no effect with optimizer.kind gradient_flow"),
        ({"loss": "absolute"}, "optimizer.kind: gradient_flow is not defined for loss absolute, whose kinks no step passes"),
        ({"dtype": "float32"}, "dtype: must be float64 with optimizer.kind gradient_flow"),
    ],
)
def test_what_is_no_flow_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        flow(**changes)


def test_kernels_do_not_integrate():
    assert why_not_fused(flow()) == "it has no kernels for optimizer gradient_flow"
