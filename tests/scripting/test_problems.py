"""What trials were given, as scripts see it."""

from __future__ import annotations

import numpy as np
import pytest

import orchestrator
from orchestrator.errors import UsageError
from orchestrator.grid.plain import plain_grid
from workloads.training.preparing import Preparer

GRID = {
    "name": "given",
    "fixed": {
        "problem": {"kind": "matrix_completion", "shape": [4, 3], "target": {"rank": 1}, "observed": 5},
        "factorization": {"kind": "deep_matrix", "depth": 2},
        "init": {"kind": "gaussian", "scale": 0.1},
        "optimizer": {"kind": "gd", "lr": 0.1},
        "stop": {"steps": 20},
    },
    "seeds": 2,
}


def test_of_completion_the_entries_are_those_of_the_target():
    problem = orchestrator.load_problem(GRID)
    assert problem.truth.shape == problem.mask.shape == problem.shape == (4, 3)
    assert np.linalg.matrix_rank(problem.truth) == 1
    assert len(problem.values) == problem.mask.sum() == 5
    np.testing.assert_array_equal(problem.values, problem.truth[tuple(problem.indices.T)])
    assert problem.mask[tuple(problem.indices.T)].all()
    # The others were not trained on.
    assert not problem.mask[tuple(problem.held_out_indices.T)].any()
    np.testing.assert_array_equal(problem.held_out_values, problem.truth[tuple(problem.held_out_indices.T)])
    assert len(problem.held_out_values) == 12 - 5
    assert repr(problem) == "<5 entries of 4x3>"


def test_noise_is_on_what_was_seen_and_held_out_and_not_on_the_target():
    problem = {**GRID["fixed"]["problem"], "held_out": 3, "noise": {"std": 0.5}}
    found = orchestrator.load_problem({**GRID, "fixed": {**GRID["fixed"], "problem": problem}})
    for indices, values in ((found.indices, found.values), (found.held_out_indices, found.held_out_values)):
        assert (values != found.truth[tuple(indices.T)]).all()
    assert (len(found.values), len(found.held_out_values)) == (5, 3)
    np.testing.assert_array_equal(found.truth, orchestrator.load_problem(GRID).truth)


def test_it_is_what_workers_compute():
    grid = plain_grid(GRID)
    (data,) = {id(data): data for data in map(Preparer(grid.files.contents).problem, (t.spec for t in grid.trials))}.values()
    np.testing.assert_array_equal(orchestrator.load_problem(GRID).truth, data.truth.reshape(4, 3))


def test_of_sensing_the_values_are_inner_products():
    fixed = {**GRID["fixed"], "problem": {"kind": "matrix_sensing", "shape": [4, 3], "target": {"rank": 1}, "observed": 6}}
    problem = orchestrator.load_problem({**GRID, "fixed": fixed})
    assert (problem.measurements.shape, problem.mask, problem.indices) == ((6, 4, 3), None, None)
    np.testing.assert_allclose(problem.values, np.tensordot(problem.measurements, problem.truth, 2))
    assert repr(problem) == "<6 measurements of 4x3>"


def test_of_a_regression_examples_are_held_out():
    problem = {"kind": "regression", "shape": [4], "target": {"frobenius": 2.0}, "observed": 3, "held_out": 5}
    found = orchestrator.load_problem(
        {**GRID, "fixed": {**GRID["fixed"], "problem": problem, "factorization": {"kind": "diagonal", "depth": 2}}}
    )
    assert (found.measurements.shape, found.held_out_measurements.shape) == ((3, 4), (5, 4))
    np.testing.assert_allclose(found.held_out_values, found.held_out_measurements @ found.truth)
    assert repr(found) == "<3 measurements of 4>"


def test_of_reconstruction_the_values_are_images():
    problem = {"kind": "reconstruction", "shape": [5, 5, 3], "observed": 4, "held_out": 2}
    autoencoder = {"factorization": {"kind": "autoencoder", "code_size": 2}, "init": {"kind": "uniform"}}
    found = orchestrator.load_problem({**GRID, "fixed": {**GRID["fixed"], **autoencoder, "problem": problem}})
    assert (found.values.shape, found.held_out_values.shape) == ((4, 5, 5, 3), (2, 5, 5, 3))
    assert repr(found) == "<4 inputs of 5x5x3>"


def test_where_only_entries_are_known_there_is_no_target(tmp_path):
    problem = {"kind": "matrix_completion", "shape": [2, 2], "entries": [[0, 1, 1.5], [1, 0, 2.5]]}
    fixed = {**GRID["fixed"], "problem": problem}
    found = orchestrator.load_problem({**GRID, "fixed": fixed})
    assert found.truth is None
    assert (found.indices.tolist(), found.values.tolist()) == ([[0, 1], [1, 0]], [1.5, 2.5])
    (tmp_path / "grid.yaml").write_text(plain_grid({**GRID, "fixed": fixed}).text)
    assert orchestrator.load_problem(str(tmp_path / "grid.yaml")).values.tolist() == [1.5, 2.5]


def test_which_trial_is_meant_has_to_be_said_where_problems_differ():
    grid = {**GRID, "grid": {"problem.observed": [5, 6]}}
    trials = plain_grid(grid).trials
    with pytest.raises(UsageError, match="the trials of 'given' have 2 problems: say which trial's is wanted"):
        orchestrator.load_problem(grid)
    for trial in trials:
        assert len(orchestrator.load_problem(grid, trial.trial_id[:9]).values) == trial.spec.problem.observed
    with pytest.raises(UsageError, match="there is no trial 'x'"):
        orchestrator.load_problem(grid, "x")
