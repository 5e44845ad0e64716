"""Sweeps that scripts submit: what they get back, and what they are told when something is wrong."""

from __future__ import annotations

import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import orchestrator
from orchestrator.errors import GridError, OrchestratorError, RayUnavailable, UsageError
from orchestrator.grid.plain import plain_grid
from tests import processes
from tests.cli.commands import variables

GRID = {
    "name": "scripted",
    "fixed": {
        "problem": {"kind": "matrix_completion", "shape": [3, 3], "target": {"rank": 1}, "observed": 5},
        "factorization": {"kind": "deep_matrix", "depth": 2},
        "init": {"kind": "gaussian", "scale": 0.1},
        "optimizer": {"kind": "gd", "lr": 0.1},
        "stop": {"steps": 20},
    },
    "seeds": 3,
    "record": {"points": 10, "measures": ["error", "nuclear"]},
    "figures": {
        "errors": {"kind": "points", "x": "seed", "y": "error"},
        "none": {"kind": "points", "x": "seed", "y": "error", "where": "seed > 9"},
    },
    "claims": {"falls": {"kind": "monotone", "of": "loss", "direction": "falling"}},
}

LONG = {"stop.steps": 2000, "record": {"steps": list(range(2000)), "measures": ["error"]}}


@pytest.fixture(scope="module")
def scripted(tmp_path_factory, template, cluster_address):
    """A sweep that a script has submitted, from a thread of its own, and what it needs to be found again."""
    folder = tmp_path_factory.mktemp("scripted")
    shutil.copy(template, folder)
    where = {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "storage": str(folder / "storage")}
    with ThreadPoolExecutor(1) as threads:
        submitted = threads.submit(orchestrator.submit, GRID, **where, address=cluster_address, workers=1, progress=False)
        return submitted.result(processes.PATIENCE), where


def test_a_sweep_leads_to_what_it_found(scripted):
    sweep, where = scripted
    assert sweep.counts == {"converged": 0, "exhausted": 3, "diverged": 0, "aborted": 0, "failed": 0, "cancelled": 0}
    assert repr(sweep).startswith(f"<sweep {sweep.sweep_id} of scripted: 3 trials (3 exhausted) in ")
    runs = sweep.runs(where="seed > 0")
    assert runs["seed"].tolist() == [1, 2]
    assert set(sweep.history(trials=list(runs["trial_id"]))["trial_id"]) == set(runs["trial_id"])
    one = runs["trial_id"][0]
    factors = sweep.factors(trials=one[:8])[one]
    truth = sweep.problem().truth
    error = np.linalg.norm(factors["W2"] @ factors["W1"] - truth) / np.linalg.norm(truth)
    assert error == pytest.approx(runs["error"][0], rel=1e-9)
    assert orchestrator.load_runs(["scripted", "latest"], tracking_uri=where["tracking_uri"])["sweep"].tolist() == [sweep.sweep_id] * 3


def test_measures_afterwards_are_those_that_training_records(scripted, monkeypatch):
    sweep, _ = scripted
    runs, measured = sweep.runs(), sweep.measure(["error", "nuclear", "singular_values", "schatten_2"])
    assert list(measured.columns) == ["trial_id", "error", "nuclear", "sv_0", "sv_1", "sv_2", "schatten_2"]
    for name in ("trial_id", "error", "nuclear"):
        assert measured[name].tolist() == runs[name].tolist()
    np.testing.assert_allclose(measured["schatten_2"], np.linalg.norm(measured[["sv_0", "sv_1", "sv_2"]], axis=1))
    # However many are measured together.
    monkeypatch.setattr("workloads.training.afterwards.AT_ONCE", 2)
    assert sweep.measure("error")["error"].tolist() == runs["error"].tolist()
    some = sweep.measure("error", where="seed > 0", trials=list(runs["trial_id"][:2]))
    assert some["trial_id"].tolist() == [runs["trial_id"][1]]
    for name, message in (
        ("errror", "unknown measure errror; did you mean error?"),
        ("loss", "loss is in every table"),
        ("cp_rank", "tensors"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            sweep.measure(name)


def test_figures_are_charts_and_verdicts_a_table(scripted):
    sweep, _ = scripted
    with pytest.warns(UserWarning, match="not drawn: none: no trial is concerned"):
        charts = sweep.figures()
    assert set(charts) == {"errors"}
    assert "vega" in charts["errors"]._repr_mimebundle_()["text/html"]
    verdicts = sweep.verify()
    assert verdicts[["claim", "verdict", "trials"]].to_numpy().tolist() == [["falls", "holds", 3]]


def test_figures_and_claims_on_the_spot(scripted):
    sweep, where = scripted
    uri = where["tracking_uri"]
    assert set(orchestrator.figures(sweep.sweep_id, {"a": {"kind": "points", "x": "seed", "y": "nuclear"}}, tracking_uri=uri)) == {"a"}
    small = {"small": {"kind": "within", "of": "error", "range": [None, 1e-9]}}
    assert orchestrator.verify(sweep.sweep_id, small, tracking_uri=uri)["verdict"].tolist() == ["broken"]
    with pytest.raises(GridError, match=r"figures\.a\.y: is missing"):
        orchestrator.figures(sweep.sweep_id, {"a": {"kind": "points", "x": "seed"}}, tracking_uri=uri)
    with pytest.raises(UsageError, match="makes no claims"):
        orchestrator.verify(sweep.sweep_id, {}, tracking_uri=uri)


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda: orchestrator.submit({**GRID, "seeds": "x"}), GridError, r"^grid\['seeds'\]: seeds: must be"),
        (lambda: orchestrator.submit("nothing.yaml"), GridError, "^nothing.yaml: cannot be read"),
        (lambda: orchestrator.plan(GRID, overrides={"optimizer.rl": 1}), GridError, "^--set optimizer.rl: optimizer.rl: unknown key"),
        (lambda: orchestrator.submit(GRID, address="http://head:8265"), UsageError, "^a sweep that is sent to http://head:8265 as a job"),
        (lambda: orchestrator.submit(GRID, address="127.0.0.1:1", progress=False), RayUnavailable, "127.0.0.1:1"),
        (lambda: orchestrator.load_runs("x", tracking_uri="sqlite:///no/such/mlflow.db"), OrchestratorError, "there is no MLflow database"),
        (
            lambda: orchestrator.submit(GRID, overrides=LONG),
            UsageError,
            "^what is set beside the grid has 10,",
        ),
        (lambda: orchestrator.load_runs([]), UsageError, "^no sweep is named"),
    ],
)
def test_errors_are_the_programs_own(ask, error, message):
    with pytest.raises(error, match=message):
        ask()


def test_a_plan_says_what_would_run():
    assert repr(orchestrator.plan(GRID, workers=1)).startswith("<plan of 3 trials in 1 pack, 1 at once: memory ")
    assert orchestrator.plan(GRID, overrides={"seeds": 5}).trials == 5


SCRIPT = """
import orchestrator
assert orchestrator.errors.RayUnavailable
import os, ray
sweep = orchestrator.submit('grid.yaml', address={address!r}, workers=1)
here = os.getcwd()
os.chdir('/')
print(sweep.counts['exhausted'], ray.is_initialized(), len(sweep.runs()))
os.chdir(here)
ray.init({address!r}, log_to_driver=False, logging_level='ERROR')
try:
    orchestrator.submit('grid.yaml', address={address!r}, fresh=True, progress=False)
except orchestrator.errors.RayUnavailable as error:
    print(error, ray.is_initialized())
"""


def test_one_line_of_python_submits_and_leaves_others_rays_alone(tmp_path, template, cluster_address):
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(template, work)
    (work / "grid.yaml").write_text(plain_grid(GRID).text)
    code = SCRIPT.format(address=cluster_address)
    done = processes.run([sys.executable, "-c", code], cwd=work, env=variables(work))
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "3 False 3"
    assert second == ("this process is connected to Ray already: call ray.shutdown() first, or submit from another process True")
    assert done.stderr.startswith("scripted: 3 trials to run in 1 pack, 1 at once")
