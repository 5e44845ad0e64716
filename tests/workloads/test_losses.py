"""Losses that are no squares: lanes beside each other, what is refused, what kernels can have, and data that are signs or outliers."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from orchestrator.errors import GridError
from orchestrator.grid import parse_grid
from orchestrator.planning.pack import Crew
from orchestrator.planning.plan import make_plan
from tests.contract.references import spec as small
from tests.specs import spec
from tests.workloads import oracle
from tests.workloads.test_engines import advance, lanes_of
from tests.workloads.test_extensions import use
from tests.workloads.test_problems import problem
from workloads.engines.base import create
from workloads.engines.choice import numbers_apart, remark, why_not_fused
from workloads.engines.pointwise import Pointwise, pointwise
from workloads.extensions.loading import activate
from workloads.factorizations.graphs.facts import why_closed
from workloads.losses import LOSSES
from workloads.measures import undefined
from workloads.measures.numerics.objective import Objective
from workloads.training.recording import Recording

GRID = """
name: losses
fixed:
  problem: {kind: matrix_completion, shape: [4, 4], target: {rank: 1}, observed: 9}
  factorization: {kind: deep_matrix, depth: 2}
  init: {kind: gaussian, scale: 0.1}
  optimizer: {kind: gd, lr: 0.1}
  stop: {steps: 10}
"""
OWN = """
import torch
from workloads import Loss

class LogCosh(Loss):
    kind = "log_cosh"
    def pointwise(self, prediction, observation):
        return torch.log(torch.cosh(prediction - observation))

class Cauchy(Loss):
    kind = "cauchy"
    reduction = "mean"
    width: float = 1.0
    share: float = 0.5
    def pointwise(self, prediction, observation):
        residual = prediction - observation
        smooth = self.width ** 2 / 2 * torch.log1p((residual / self.width) ** 2)
        return self.share * smooth + (1 - self.share) * residual.abs()

class Deciding(Loss):
    kind = "deciding"
    power: float = 2.0
    weight: float = 1.0
    def pointwise(self, prediction, observation):
        residual = (prediction - observation).abs()
        return self.weight * (residual * residual if self.power == 2 else residual)

class Branching(LogCosh):
    kind = "branching"
    def pointwise(self, prediction, observation):
        return torch.stack([torch.log(torch.cosh(r)) if r > 0 else torch.log(torch.cosh(-r)) for r in prediction - observation])

class Sorted(LogCosh):
    kind = "expm1"
    def pointwise(self, prediction, observation):
        return torch.expm1((prediction - observation).abs())
"""


@pytest.fixture
def own():
    use(OWN)
    yield
    activate(())


def test_the_steps_of_a_loss_are_few():
    """What the trace multiplies by the gradient of the whole, and the derivative by the observation, are left out."""
    found = pointwise(LOSSES["absolute"](), torch.float64)
    assert found == Pointwise((("t0", "sub", ("p", "y")), ("t1", "abs", ("t0",)), ("t2", "sign", ("t0",))), "t1", "t2")


@pytest.mark.parametrize(
    ("engine", "loss", "kind"),
    [
        ("batched", "huber", "matrix_completion"),
        ("batched", "logistic", "matrix_completion"),
        ("fused", "huber", "matrix_completion"),
        ("fused", "logistic", "matrix_sensing"),
        ("batched", "logistic", "matrix_sensing"),
    ],
)
def test_lanes_have_the_same_bits_alone_and_beside_others(engine, loss, kind):
    """Also beside those that observe more, where they have columns in which nothing is observed."""
    first = small(kind, "deep_matrix", "gd", loss)
    specs = [
        first.model_copy(update={"seed": n, "problem": first.problem.model_copy(update={"seed": n, "observed": 5 + n})}) for n in range(9)
    ]
    together = advance(create(engine), lanes_of(specs), 80)
    for n in (0, 3, 8):
        alone = advance(create(engine), lanes_of([specs[n]]), 80)
        # Of measurements PyTorch makes other products where there are more of them.
        exact = {"rtol": 1e-12} if (engine, kind) == ("batched", "matrix_sensing") else {"rtol": 0}
        for one, all_of_them in zip(alone.params, together.params, strict=True):
            np.testing.assert_allclose(one[0], all_of_them[n], **exact)
        assert alone.loss[0] == pytest.approx(oracle.train(specs[n], 80).losses[-1], rel=1e-9)


def test_lanes_of_other_losses_are_no_lanes_of_one_program():
    keys = {spec(loss=loss).lane_key for loss in ("half_sse", "mse", "absolute", {"kind": "huber", "delta": 0.1}, {"kind": "huber"})}
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("engine", "kind", "factorization"),
    [
        ("batched", "matrix_completion", "deep_matrix"),
        ("fused", "matrix_sensing", "deep_matrix"),
        ("fused", "tensor_completion", "cp"),
        ("fused", "tensor_completion", "tucker"),
    ],
)
@pytest.mark.parametrize("loss", ["huber", "cauchy"])
def test_lanes_differ_in_their_losses_numbers(own, engine, kind, factorization, loss):
    """In one program, with the bits that each has alone, which are near those of the plain loop with these numbers."""
    first = small(kind, factorization, "gd", "half_sse")
    numbers = [{"delta": 10.0**-n} if loss == "huber" else {"width": 3.0**-n, "share": n / 10} for n in range(9)]
    specs = [first.model_copy(update={"loss": LOSSES.read({"kind": loss, **given})}) for given in numbers]
    assert len({one.lane_key for one in specs}) == 1
    together = advance(create(engine), lanes_of(specs), 40)
    assert len({float(value) for value in together.loss}) == 9
    for n in (0, 1, 8):
        alone = advance(create(engine), lanes_of([specs[n]]), 40)
        for one, all_of_them in zip(alone.params, together.params, strict=True):
            np.testing.assert_array_equal(one[0], all_of_them[n])
        plain = advance(create("autograd"), lanes_of([specs[n]]), 40)
        assert alone.loss[0] == pytest.approx(plain.loss[0], rel=1e-9)


def test_numbers_by_which_a_loss_decides_are_constants_and_the_plan_says_so(own):
    given = [{"power": 2.0}, {"power": 2.0, "weight": 3.0}, {"power": 1.0, "weight": 3.0}]
    specs = [spec(loss={"kind": "deciding", **one}) for one in given]
    assert len({one.lane_key for one in specs[:2]}) == 1
    assert len({one.lane_key for one in specs}) == 2
    (line,) = numbers_apart(specs)
    assert line.startswith("loss deciding has a program of its own for each value of power: what it does depends on the numbers")
    assert not [*numbers_apart(specs[:2])]
    for one in specs[1:]:
        found, plain = (advance(create(engine), lanes_of([one]), 20) for engine in ("batched", "autograd"))
        assert found.loss[0] == pytest.approx(plain.loss[0], rel=1e-12)


def test_what_a_loss_keeps_of_its_numbers_is_no_reason_to_compute_another(own):
    use("""
import torch
from functools import cached_property
from workloads import Loss

class Kept(Loss):
    kind = "kept"
    scale: float = 1.0
    _double: float = 0.0
    def model_post_init(self, context):
        self._double = 2 * self.scale
    def pointwise(self, prediction, observation):
        return self._double * (prediction - observation).abs()

class Cached(Loss):
    kind = "cached"
    scale: float = 1.0
    @cached_property
    def double(self):
        return 2 * self.scale
    def pointwise(self, prediction, observation):
        return self.double * (prediction - observation).abs()
""")
    kept, cached = ([spec(loss={"kind": kind, "scale": scale}) for scale in (1.0, 2.0)] for kind in ("kept", "cached"))
    assert len({one.lane_key for one in kept}) == 2
    assert why_closed(kept[0].loss, ("scale",)) == "its scale is not read whenever it is called"
    assert cached[0].loss.double == 2
    assert len({one.lane_key for one in cached}) == 1


def test_curvature_is_that_of_each_lanes_own_loss():
    """Of a lone entry, the Hessian of Huber's loss is that of squares within delta, and zero beyond."""
    specs = [spec(loss={"kind": "huber", "delta": delta}) for delta in (1e-3, 1e3)]
    found = []
    for some in (specs, specs[:1], specs[1:]):
        lanes = lanes_of(some)
        objective = Objective(lanes.factorization, some, lanes.problems, lanes.params)
        found.append(objective.losses().detach())
    np.testing.assert_array_equal(found[0], torch.cat(found[1:]))
    assert found[0][1] > 10 * found[0][0]


def test_a_grid_over_a_number_of_a_loss_is_one_pack():
    text = (
        GRID
        + """\
  loss.kind: huber
grid: {loss.delta: {logspace: [1e-3, 1, 20]}}
"""
    )
    (pack,) = make_plan(parse_grid(text).trials, Recording(()), "fused", [Crew(1)]).packs
    assert len(pack.trials) == 20


@pytest.mark.parametrize("engine", ["autograd", "batched", "fused"])
def test_logistic_from_zero_and_of_margins_that_are_large(engine):
    """Where w is 0 the derivative is -y/2, and nothing overflows where exp(-y w) would."""
    one = spec(
        problem__signs=True, loss="logistic", factorization={"kind": "deep_matrix", "depth": 1}, init={"kind": "gaussian", "scale": 1.0}
    )
    for far in (0.0, 50.0, 900.0):
        lanes = lanes_of([one])
        lanes.params[0].fill_(far)
        seen = torch.from_numpy(lanes.problems[0].mask).view(4, 4)
        y = torch.from_numpy(lanes.problems[0].target).view(4, 4)
        advance(create(engine), lanes, 1)
        moved = y * torch.sigmoid(-y * torch.full((4, 4), far, dtype=torch.float64)) * seen / 9 * 0.05
        np.testing.assert_allclose(lanes.params[0][0] - far, moved, rtol=1e-6, atol=1e-14)
        assert np.isfinite(lanes.loss[0])


def test_own_losses_are_traced_or_run_lane_by_lane(own):
    ends = []
    for kind in ("log_cosh", "branching"):
        one = spec(loss=kind, problem__observed=10)
        specs = [one, one.model_copy(update={"seed": 1, "problem": one.problem.model_copy(update={"observed": 8})})]
        ends.append(advance(create("batched"), lanes_of(specs), 50).params)
        assert bool(why_not_fused(one)) == (kind == "branching")
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=1e-12)
    fused = advance(create("fused"), lanes_of([spec(loss="log_cosh", problem__observed=10)]), 50)
    np.testing.assert_allclose(fused.params[0][0], ends[0][0][0], rtol=1e-10)
    no_kernel = spec(loss="expm1", factorization={"kind": "deep_matrix", "depth": 2})
    assert why_not_fused(no_kernel) == "its kernels do not know expm1, which loss expm1 uses"
    assert remark(no_kernel, "batched") == "loss expm1 has no fused kernel: its kernels do not know expm1, which loss expm1 uses"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("loss: logistic", "loss: is logistic, which is of observations that are -1 or 1: problem.signs: true makes them so"),
        ("loss: {kind: mse, delta: 1}", "loss.delta: has no effect with loss.kind mse"),
        ("loss: {kind: huber, delta: 0}", "loss.delta: must be at least 1e-152, not 0"),
        ("loss: {delta: 0.1}", "loss.kind: is missing"),
        ("loss: absolute\ncases: [{factorization.depth: null, factorization.kind: min_frobenius, init: null, optimizer: null}]",
         "loss: must be half_sse or mse with factorization.kind min_frobenius, which fits what is observed by least squares"),
        ("loss: logistic\n  problem.signs: true\n  optimizer.label_noise: 0.1", "optimizer.label_noise: is noise on numbers, and loss logistic is of signs"),
        ("problem.signs: true\ncases: [{problem.target: null, problem.observed: null, problem.entries: [[0, 0, 1.0]]}]",
         "problem.signs: has no effect with problem.entries: give signs as their values"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(changes, said):
    text = f"{GRID}  {changes}\n"
    with pytest.raises(GridError) as caught:
        parse_grid(text)
    assert said in str(caught.value)


def test_a_loss_is_a_name_or_a_section_and_a_name_replaces_the_section():
    text = (
        GRID
        + """\
  loss: {kind: huber, delta: 0.3}
cases: [{loss: mse}, {loss.delta: 2.0}, {loss: absolute}, {loss: huber}, {loss.delta: 0.7, loss: huber}]
"""
    )
    flat = [trial.spec.flat() for trial in parse_grid(text).trials]
    assert [(f["loss"], f.get("loss.delta")) for f in flat] == [
        ("mse", None),
        ("huber", 2.0),
        ("absolute", None),
        ("huber", 1.0),
        ("huber", 0.7),
    ]


def test_sharpness_has_no_meaning_for_kinks():
    assert undefined("sharpness", spec(loss="absolute")) == "is not defined for loss absolute, whose kinks no Hessian knows of"
    assert undefined("gradient_norm", spec(loss="absolute")) is None
    assert undefined("sharpness", spec(loss="huber")) is None


def test_signs_are_those_of_what_would_be_observed():
    one = {"shape": [40, 40], "observed": 0.5, "noise": {"std": 0.1}}
    plain, signs = problem(**one).realize({}), problem(**one, signs=True).realize({})
    np.testing.assert_array_equal(signs.target[signs.mask], np.sign(plain.target[plain.mask]))
    np.testing.assert_array_equal(signs.held_out[1], np.sign(plain.held_out[1]))
    np.testing.assert_array_equal(signs.truth, plain.truth)
    assert problem(**one, signs=False).canonical == problem(**one).canonical != problem(**one, signs=True).canonical


def test_signs_are_held_out_of_a_file_that_lists_entries_and_has_the_truth():
    truth = np.random.default_rng(0).standard_normal((4, 4))
    buffer = io.BytesIO()
    np.savez(buffer, target=truth, indices=np.argwhere(np.eye(4)), values=truth.diagonal())
    named = problem(target=None, observed=None, file="d.npz", signs=True, shape=None)
    made = named.with_data(buffer.getvalue(), "d")
    data = made.realize({"d": buffer.getvalue()})
    where, values = data.held_out
    np.testing.assert_array_equal(where, np.flatnonzero(~np.eye(4, dtype=bool)))
    np.testing.assert_array_equal(values, np.sign(truth.ravel()[where]))
    assert made.held_out_entries() == len(where) == 12
    np.testing.assert_array_equal(data.truth, truth.ravel())


def test_logistic_noise_makes_the_odds_that_the_loss_takes_them_for():
    noise = problem(noise={"std": np.pi / np.sqrt(3), "distribution": "logistic"}).noise.drawn(200_000, 3)
    assert noise.std() == pytest.approx(np.pi / np.sqrt(3), rel=0.01)
    for w in (-1.0, 0.5, 2.0):
        assert (w + noise > 0).mean() == pytest.approx(1 / (1 + np.exp(-w)), abs=0.005)


def test_outliers_are_a_share_and_the_same_however_many_are_seen():
    few, many = (problem(shape=[50, 50], observed=n, noise={"std": 9.0, "share": 0.1}).realize({}) for n in (500, 2000))
    assert np.array_equal(few.target[few.mask], many.target[few.mask])
    hit = np.abs(many.target - many.truth)[many.mask] > 1e-12
    assert 0.07 < hit.mean() < 0.13
    assert np.abs(many.target - many.truth)[many.mask][hit].std() > 2
