"""Autoencoders and what they reconstruct: against networks of PyTorch's own layers, drawn shapes against geometry, measures against numpy."""

from __future__ import annotations

import itertools
import json
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from orchestrator.errors import GridError
from orchestrator.grid import parse_grid
from tests.contract.references import LOSSES, OPTIMIZERS
from tests.specs import spec, trials
from tests.workloads.test_dynamics import bits
from tests.workloads.test_engines import advance, lanes_of
from workloads import measures
from workloads.engines.base import create
from workloads.engines.choice import chosen, why_not_fused
from workloads.measures.numerics import objective
from workloads.measures.numerics.snapshot import Snapshot, evaluate
from workloads.measures.work import of_inputs
from workloads.problems.data.images import draw_shapes
from workloads.training.loop import train
from workloads.training.policy import Policy
from workloads.training.recording import Recording
from workloads.training.results import Checkpoint, Finished, Request

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "identity": nn.Identity}


def small(**changes):
    """A small autoencoder, with sections replaced or, by keys with two underscores, single fields."""
    fields = {
        "problem": {"kind": "reconstruction", "shape": [4, 4, 3], "observed": 30, "held_out": 10},
        "factorization": {"kind": "autoencoder", "hidden": [7], "code_size": 3, "linear_layers": 2},
        "init": {"kind": "uniform"},
        "optimizer": {"kind": "adam", "lr": 3e-3, "batch": 8},
        "loss": "mse",
    }
    given = {key: value for key, value in changes.items() if "__" not in key}
    inner = {key: value for key, value in changes.items() if "__" in key}
    return spec(**fields | given | inner)


def network(one, factors):
    """The encoder, linear layers included, and the decoder, as a user of PyTorch writes them, with these ``factors``."""
    keys, size = one.factorization, math.prod(one.shape)
    act = ACTIVATIONS[keys.activation]
    widths = [size, *keys.hidden, keys.code_size]
    encoder = [part for into, out in itertools.pairwise(widths) for part in (nn.Linear(into, out), act())][:-1]
    encoder += [nn.Linear(keys.code_size, keys.code_size, bias=False) for _ in range(keys.linear_layers)]
    decoder = [part for into, out in itertools.pairwise(widths[::-1]) for part in (nn.Linear(into, out), act())][:-1]
    whole = nn.Sequential(nn.Sequential(*encoder), nn.Sequential(*decoder, ACTIVATIONS[keys.output]())).double()
    for mine, given in zip(whole.parameters(), factors, strict=True):
        mine.data.copy_(torch.from_numpy(given))
    return whole


def plain(one, steps):
    """A trial in a plain loop, each mini-batch drawn number by number."""
    images = torch.from_numpy(one.problem.realize({}).inputs)
    whole = network(one, one.initial_factors({}))
    optimizer = OPTIMIZERS[one.optimizer.kind].made(list(whole.parameters()), one.optimizer)

    def loss(step):
        batch = one.optimizer.batch
        numbers = range(len(images))
        some = images[sorted(numbers, key=lambda n: bits(one.seed, 1, step, n)[0] >> 1)[:batch]] if batch else images
        value = LOSSES[one.loss.kind].of(whole(some), some, one.loss)
        return value if one.loss.kind == "mse" else value * len(images) / len(some)

    for step in range(steps):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
    return loss(steps).item(), [p.detach().numpy() for p in whole.parameters()]


CASES = {
    "mini-batches": {},
    "all images": {"optimizer": {"kind": "adam", "lr": 3e-3}},
    "sums": {"loss": "half_sse", "optimizer": {"kind": "gd", "lr": 1e-3, "batch": 5}},
    "huber": {"loss": {"kind": "huber", "delta": 0.1}, "optimizer": {"kind": "gd", "lr": 1e-3, "batch": 5}},
    "deeper": {"factorization__hidden": [9, 6], "factorization__activation": "sigmoid", "factorization__output": "identity"},
    "linear": {"factorization__activation": "identity", "factorization__linear_layers": 0},
    "tanh": {"factorization__activation": "tanh", "factorization__output": "sigmoid"},
    "no hidden layers": {"factorization": {"kind": "autoencoder", "code_size": 4, "linear_layers": 1, "output": "relu"}},
}


@pytest.mark.parametrize("case", CASES)
def test_engines_train_as_a_plain_loop_of_pytorchs_layers(case):
    one = small(**CASES[case], seed=4)
    loss, factors = plain(one, 60)
    other = one.model_copy(update={"seed": 1, "problem": one.problem.model_copy(update={"seed": 9})})
    for engine in ("autograd", "batched"):
        lanes = advance(create(engine), lanes_of([one, other]), 60)
        assert lanes.loss[0] == pytest.approx(loss, rel=1e-10), engine
        for mine, theirs in zip(lanes.params, factors, strict=True):
            np.testing.assert_allclose(mine[0], theirs, rtol=1e-9, atol=1e-11, err_msg=engine)


def test_a_thousand_steps_agree_to_eight_digits():
    one = small(seed=2)
    loss, factors = plain(one, 1000)
    lanes = advance(create("batched"), lanes_of([one]), 1000)
    assert lanes.loss[0] == pytest.approx(loss, rel=1e-8)
    for mine, theirs in zip(lanes.params, factors, strict=True):
        np.testing.assert_allclose(mine[0], theirs, rtol=1e-8, atol=1e-10)


def ended(events):
    return {result.trial_id: result for event in events if isinstance(event, Finished) for result in event.results}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_trial_has_the_same_bits_alone_beside_others_and_resumed(dtype):
    specs = [small(seed=n, problem__seed=n % 2, optimizer__lr=1e-3 * (n + 1)).model_copy(update={"dtype": dtype}) for n in range(3)]
    assert len({one.lane_key for one in specs}) == 1
    recording, policy = Recording(("held_out_rmse", "code_singular_values"), points=6), Policy(call_seconds=0.0, steps=16)
    whole = ended(train(trials(specs), recording, create("batched"), policy=policy))
    for n, alone in enumerate(trials(specs)):
        (found,) = ended(train([alone], recording, create("batched"))).values()
        for name, factor in found.factors.items():
            np.testing.assert_array_equal(factor, whole[f"t{n}"].factors[name])
    asked = itertools.chain([None, Request.STOP], itertools.repeat(None))
    events = list(train(trials(specs), recording, create("batched"), asked=lambda: next(asked), policy=policy))
    left = [trial for event in events if isinstance(event, Checkpoint) for trial in event.trials]
    assert {0 < trial.step < 100 for trial in left} == {True}
    # In another order, and one on its own.
    after = ended(train(pickle.loads(pickle.dumps(left[:0:-1])), recording, create("batched"), policy=policy))
    after |= ended(train(pickle.loads(pickle.dumps(left[:1])), recording, create("batched"), policy=policy))
    for key, result in whole.items():
        np.testing.assert_array_equal(result.trace.values, after[key].trace.values)
        for name, factor in result.factors.items():
            np.testing.assert_array_equal(factor, after[key].factors[name])


def test_widths_that_fill_no_line_of_cache_have_the_same_bits_in_any_pack():
    keys = {"kind": "autoencoder", "hidden": [5], "code_size": 3, "linear_layers": 1}
    problem = {"kind": "reconstruction", "shape": [5, 5, 3], "observed": 23}
    specs = [small(problem=problem, factorization=keys, optimizer={"kind": "gd", "lr": 0.1}, seed=n) for n in range(5)]
    alone = [advance(create("batched"), lanes_of([one]), 1) for one in specs]
    for count in (2, 5):
        together = advance(create("batched"), lanes_of(specs[:count]), 1)
        for n in range(count):
            for whole, single in zip(together.params, alone[n].params, strict=True):
                np.testing.assert_array_equal(whole[n].numpy(), single[0].numpy())


def test_recorded_losses_are_those_of_the_mini_batch_that_is_seen_next():
    one = small()
    (result,) = ended(train(trials([one]), Recording((), steps=(0, 7, 50)), create("batched"))).values()
    for step, row in zip(result.trace.steps, result.trace.values, strict=True):
        assert row[0] == pytest.approx(plain(one, int(step))[0], rel=1e-9)


def test_mini_batches_of_other_sizes_are_other_programs():
    keys = [small(optimizer__batch=batch).lane_key for batch in (8, 9)]
    assert keys[0] != keys[1]
    assert small(optimizer__batch=9).sections != small().sections


# ----------------------------------------------------------------------------------------------------------------- images


def test_shapes_are_discs_and_squares_of_one_colour_with_the_area_that_they_have():
    images = draw_shapes(400, 24, np.random.default_rng(5)).reshape(400, 24, 24, 3)
    drawn = np.random.default_rng(5).random((400, 7))
    radius = 24 * (1 / 8 + drawn[:, 1] / 4)
    colour = drawn[:, 4:]
    assert images.min() == 0
    assert images.max() <= 1
    covered = images / colour[:, None, None, :]
    np.testing.assert_allclose(covered, np.broadcast_to(covered[..., :1], covered.shape), atol=1e-12)
    area, disc = covered[..., 0].sum((1, 2)), drawn[:, 0] < 0.5
    np.testing.assert_allclose(area[~disc], (2 * radius[~disc]) ** 2, rtol=1e-12)
    np.testing.assert_allclose(area[disc], math.pi * radius[disc] ** 2, rtol=0.02)
    places = np.arange(24) + 0.5
    for axis in (1, 2):
        centre = (covered[..., 0].sum(3 - axis) * places).sum(1) / area
        np.testing.assert_allclose(centre, radius + (24 - 2 * radius) * drawn[:, 1 + axis], atol=0.1)
    assert 150 < disc.sum() < 250


def test_more_images_contain_the_fewer_and_others_are_held_out():
    few, many = (small(problem__observed=count).problem.realize({}) for count in (20, 30))
    np.testing.assert_array_equal(few.inputs, many.inputs[:20])
    np.testing.assert_array_equal(few.held_out_inputs, many.held_out_inputs)
    rows = {row.tobytes() for row in (*many.inputs, *many.held_out_inputs)}
    assert len(rows) == 40
    other = small(problem__seed=1).problem.realize({})
    assert not np.array_equal(other.inputs, many.inputs)


@pytest.fixture
def folder(tmp_path):
    images = np.random.default_rng(0).random((25, 5, 4))
    np.savez(tmp_path / "faces.npz", images=images)
    np.savez(tmp_path / "bytes.npz", images=np.array([0, 255, 7, 9], dtype=np.uint8).reshape(1, 2, 2).repeat(25, axis=0))
    np.savez(tmp_path / "centred.npz", images=np.array([-0.5, 0.5]).reshape(1, 1, 2).repeat(25, axis=0))
    np.savez(tmp_path / "flat.npz", images=np.ones((4, 5)))
    np.savez(tmp_path / "other.npz", target=np.ones((4, 5)))
    return tmp_path


def grid_of(folder, record=None, **changes):
    one = small()
    fields = {key: one.model_dump(mode="json", exclude_none=True)[key] for key in ("factorization", "init", "optimizer", "loss")}
    fields["stop"] = {"steps": 100}
    fields["problem"] = {"kind": "reconstruction", "shape": [4, 4, 3], "observed": 30, "held_out": 10}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        fields[section] = {**fields[section], name: value} if name else value
    return parse_grid(json.dumps({"name": "one", "fixed": fields} | ({"record": {"measures": record}} if record else {})), folder=folder)


def test_images_of_a_file_are_seen_and_held_out_by_the_seed(folder):
    images = np.load(folder / "faces.npz")["images"].reshape(25, -1)
    held, all_of_it = ({"kind": "reconstruction", "data": "faces.npz"} | keys for keys in ({"held_out": 0.2, "seed": 3}, {}))
    grid = grid_of(folder, problem=held)
    problem = grid.trials[0].spec.problem
    assert (problem.shape, problem.observations(), problem.held_out_entries(), problem.draws) == ((5, 4), 20, 5, True)
    data = problem.realize(grid.files.contents)
    rows = [row.tobytes() for row in (*data.inputs, *data.held_out_inputs)]
    assert sorted(rows) == sorted(row.tobytes() for row in images)
    assert grid.trials[0].trial_id == grid_of(folder, problem=held | {"held_out": 5, "observed": 20}).trials[0].trial_id
    part = held | {"observed": 0.4}
    assert small(problem=part).problem.observations() is None
    assert grid_of(folder, problem=part, optimizer__batch=5).trials[0].spec.problem.observations() == 10
    whole = grid_of(folder, problem=all_of_it, record=["factor_norms"])
    problem = whole.trials[0].spec.problem
    assert not problem.draws
    np.testing.assert_array_equal(problem.realize(whole.files.contents).inputs, images)


def test_outputs_without_bounds_reach_all_images(folder):
    for name, output in (("bytes.npz", "identity"), ("bytes.npz", "relu"), ("centred.npz", "tanh")):
        grid_of(folder, problem={"kind": "reconstruction", "data": name}, factorization__output=output)


FILE = {"kind": "reconstruction", "data": "faces.npz"}
WRONG = {
    r"problem.target: has no effect with problem.kind reconstruction": {"problem__target": {"rank": 1}},
    r"problem.noise: has no effect with problem.kind reconstruction": {"problem__noise": {"std": 1.0}},
    r"problem.data: must be 'shapes'|problem.data: must be shapes": {"problem__data": 3},
    r"problem.data: nowhere.npz|problem.data: cannot read nowhere.npz": {"problem__data": "nowhere.npz"},
    r"problem.data: is 'shapez', neither shapes nor an .npz file; did you mean shapes\?$": {"problem__data": "shapez"},
    r"problem.data: is 'faces.csv', neither shapes nor an .npz file$": {"problem": FILE | {"data": "faces.csv"}},
    r"factorization.output: is tanh, from -1 to 1, but bytes.npz has images from 0 to 255: scale them": {
        "problem": FILE | {"data": "bytes.npz"}
    },
    r"factorization.output: is sigmoid, from 0 to 1, but centred.npz has images from -0.5 to 0.5": {
        "problem": FILE | {"data": "centred.npz"},
        "factorization__output": "sigmoid",
    },
    r"problem.data: other.npz: unknown array 'target'": {"problem": FILE | {"data": "other.npz"}},
    r"problem.data: flat.npz: images must have shape \[N, rows, columns\]": {"problem": FILE | {"data": "flat.npz"}},
    r"problem.data: faces.npz: images have shape \[5, 4\], but problem.shape is \[5, 5\]": {"problem": FILE | {"shape": [5, 5]}},
    r"problem.observed: is 22, but the file has 25 images and 5 are held out": {"problem": FILE | {"observed": 22, "held_out": 5}},
    r"problem.held_out: is 25, which leaves nothing to train on": {"problem": FILE | {"held_out": 25}},
    r"problem.seed: has no effect": {"problem": FILE | {"seed": 3}},
    r"problem.shape: of shapes is \[n, n, 3\]": {"problem__shape": [4, 5, 3]},
    r"problem: needs shape": {"problem": {"kind": "reconstruction", "observed": 5}},
    r"problem: needs observed": {"problem": {"kind": "reconstruction", "shape": [4, 4, 3]}},
    r"problem.observed: counts images": {"problem__observed": 0.5},
    r"optimizer.batch: is 31, but there are only 30": {"optimizer__batch": 31},
    r"optimizer.label_noise: is not defined for problem.kind reconstruction": {"optimizer__label_noise": 0.1},
    r"problem.signs: has no effect with problem.kind reconstruction": {"problem__signs": True},
    r"loss: is logistic, which is of observations that are -1 or 1: those of reconstruction are others": {"loss": "logistic"},
    r"factorization.kind: cp is no function of inputs, which problem.kind reconstruction needs: autoencoder": {
        "factorization": {"kind": "cp", "components": 3}
    },
    r"factorization.kind: autoencoder is a function of inputs, which problem.kind tensor_completion has not: it goes with reconstruction": {
        "problem": {"kind": "tensor_completion", "shape": [4, 4, 3], "target": {"rank": 1}, "observed": 9}
    },
    r"factorization.activation: has no effect without hidden layers": {
        "factorization": {"kind": "autoencoder", "code_size": 3, "activation": "tanh"}
    },
    r"init.det_sign": {"init__det_sign": "positive"},
    r"init.balanced: is not defined for factorization.kind autoencoder": {"init__balanced": True},
    r"effective_rank needs an end-to-end matrix or tensor, which factorization.kind autoencoder has not": {"record": ["effective_rank"]},
    r"stop.when: error needs an end-to-end": {"stop__when": "error < 1"},
    r"code_effective_rank needs inputs that are held out": {"record": ["code_effective_rank"], "problem": FILE},
    r"code_rank_1.5 needs a share between 0 and 1": {"record": ["code_rank_1.5"]},
}


@pytest.mark.parametrize("said", WRONG)
def test_what_has_no_meaning_is_refused_before_anything_runs(said, folder):
    with pytest.raises(GridError, match=said):
        grid_of(folder, **WRONG[said])


def test_measures_of_codes_are_not_defined_for_matrices():
    assert measures.undefined("code_effective_rank", spec()) == "is defined for factorization.kind autoencoder only"


def test_a_grid_that_asks_for_fused_is_told_why_not():
    assert why_not_fused(small(optimizer={"kind": "adam", "lr": 1e-3})) == (
        "it has no kernels for reconstruction with factorization autoencoder"
    )
    assert chosen("auto", [small()] * 3) == "batched"


# --------------------------------------------------------------------------------------------------------------- measures


def test_conditions_may_be_of_more_numbers_of_codes_than_are_recorded_unless_asked_for():
    one = small(factorization__code_size=15)
    wanted = {"code_sv_3": "code_singular_values", "code_sv_12": "code_singular_values_13", "code_spectrum_14": "code_spectrum_15"}
    assert {column: measures.of_column(column, one) for column in (*wanted, "code_sv_15")} == wanted | {"code_sv_15": None}


def test_codes_and_held_out_images_are_measured_as_numpy_measures_them():
    specs = [small(seed=n) for n in range(3)]
    lanes = advance(create("batched"), lanes_of(specs), 20)
    lanes.params[0][2, 0, 0] = math.nan
    names = ["code_singular_values_2", "code_spectrum", "code_effective_rank", "code_rank_0.01", "held_out_error", "held_out_rmse"]
    assert [measures.column_names(name, specs[0])[-1] for name in names[:2]] == ["code_sv_1", "code_spectrum_2"]
    found = evaluate(names, Snapshot(lanes.factorization, lanes.params, torch.zeros(3), lanes.problems, 1e-16, specs))
    assert np.isnan(found[2]).all()
    images = lanes.problems[0].held_out_inputs
    for lane in range(2):
        encoder, decoder = network(specs[lane], [p[lane].numpy() for p in lanes.params])
        with torch.no_grad():
            codes = encoder(torch.from_numpy(images))
            apart = np.linalg.norm(decoder(codes).numpy() - images)
        values = np.linalg.svd(np.cov(codes.numpy().T, bias=True), compute_uv=False)
        share = values / values.sum()
        expected = [
            *values[:2],
            *(values / values[0]),
            np.exp(-(share * np.log(share)).sum()),
            (values > 0.01 * values[0]).sum(),
            apart / np.linalg.norm(images),
            apart / math.sqrt(images.size),
        ]
        np.testing.assert_allclose(found[lane], expected, rtol=1e-9)


@pytest.mark.parametrize("case", ["mini-batches", "sums", "huber", "no hidden layers"])
def test_gradient_norms_and_sharpness_are_those_of_dense_hessians_of_pytorchs_layers(case, monkeypatch):
    """Of two problems, and of all inputs at once or some after others."""
    narrow = {} if case == "no hidden layers" else {"factorization__hidden": [3], "factorization__code_size": 2}
    one = small(**CASES[case] | narrow, problem__observed=8, problem__held_out=None)
    specs = [one.model_copy(update={"seed": n, "problem": one.problem.model_copy(update={"seed": n})}) for n in range(2)]
    problems, starts = [each.problem.realize({}) for each in specs], [each.initial_factors({}) for each in specs]
    params = [torch.from_numpy(np.stack(arrays)) for arrays in zip(*starts, strict=True)]
    known = [landscape(each, data.inputs, start) for each, data, start in zip(specs, problems, starts, strict=True)]
    for numbers in (objective.NUMBERS, 4 * of_inputs(one)):
        monkeypatch.setattr(objective, "NUMBERS", numbers)
        found = Snapshot(one.factorization, params, torch.zeros(2), problems, 1e-16, specs)
        np.testing.assert_allclose(found.gradient_norms, [np.linalg.norm(gradient) for gradient, _ in known], rtol=1e-10)
        np.testing.assert_allclose(found.sharpness, [np.linalg.eigvalsh(hessian)[-1] for _, hessian in known], rtol=1e-8)


def landscape(one, images, factors):
    """The gradient [P] and Hessian [P, P] of the loss of all images, as PyTorch has them of its own layers."""
    whole, images = network(one, factors), torch.from_numpy(images)
    names, sizes = zip(*((name, p.shape) for name, p in whole.named_parameters()), strict=True)
    row = torch.cat([p.detach().flatten() for p in whole.parameters()])

    def loss(row):
        parts = row.split([size.numel() for size in sizes])
        factors = {name: part.view(size) for name, part, size in zip(names, parts, sizes, strict=True)}
        return LOSSES[one.loss.kind].of(torch.func.functional_call(whole, factors, (images,)), images, one.loss)

    return torch.func.grad(loss)(row).numpy(), torch.func.hessian(loss)(row).numpy()


def test_starts_are_those_of_pytorchs_layers():
    one = small(factorization={"kind": "autoencoder", "hidden": [400], "code_size": 50, "linear_layers": 1}, problem__shape=[20, 20, 3])
    ours, theirs = one.initial_factors({}), [p.detach().numpy() for p in network(one, one.initial_factors({})).parameters()]
    assert [f.shape for f in ours] == [f.shape for f in theirs]
    for mine, into in zip(ours, (1200, 1200, 400, 400, 50, 50, 50, 400, 400), strict=True):
        bound = 1 / math.sqrt(into)
        assert np.abs(mine).max() <= bound
        # The largest of so many comes near the bound, and their variance is that of a uniform distribution.
        assert np.abs(mine).max() > bound * (1 - 30 / mine.size)
        assert abs(mine.var() * 3 / bound**2 - 1) < 6 * math.sqrt(0.8 / mine.size)
