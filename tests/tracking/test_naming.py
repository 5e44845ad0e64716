"""What trials' runs are called, and by what they are told apart."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from orchestrator.tracking import layout
from orchestrator.tracking.store import Store
from orchestrator.tracking.write.naming import LONGEST, run_name
from orchestrator.tracking.write.parent import SweepInfo
from orchestrator.tracking.write.writer import SweepWriter
from tests.stores import IN_ORDER, trial_runs
from workloads.training.results import TrialResult

SPEC = {
    "factorization.kind": "deep_matrix", "factorization.depth": 3, "factorization.widths": [4, 8], "init.scale": 1e-05, "init.balanced": False,
    "optimizer.lr": 0.1, "problem.seed": 7, "seed": 2, "problem.target.rank": 1, "problem.shape": [3, 4],
}  # fmt: skip


@pytest.mark.parametrize(
    ("varying", "name"),
    [
        (("factorization.depth", "init.scale", "seed"), "depth 3 · scale 1e-5 · seed 2"),
        (("seed", "factorization.depth"), "seed 2 · depth 3"),
        (("factorization.kind", "optimizer.lr"), "deep_matrix · lr 0.1"),
        (("problem.seed", "seed"), "problem seed 7 · seed 2"),
        (("problem.seed",), "seed 7"),
        (("problem.target.rank", "problem.shape", "factorization.widths"), "rank 1 · shape 3x4 · widths 4x8"),
        (("init.balanced",), "balanced false"),
        (("init.product_scale", "seed"), "seed 2"),
        ((), "4cf3"),
        (("init.product_scale",), "4cf3"),
    ],
)
def test_a_run_is_called_by_what_varies(varying, name):
    assert run_name("4cf3", SPEC, varying) == name


def test_what_diverged_says_so():
    assert run_name("4cf3", SPEC, ("seed",), "diverged") == "seed 2 · diverged"


def test_a_name_fits_into_the_table():
    assert len(run_name("4cf3", {"a.b": "x" * 400}, ("a.b",))) == LONGEST


@IN_ORDER
def test_what_varies_stands_first_among_params(
    store: Store, make_sweep: Callable[..., SweepInfo], make_result: Callable[..., TrialResult]
) -> None:
    varying = ["seed", "optimizer.lr", "no.such"]
    with SweepWriter(store, make_sweep("a b", tags={layout.VARIES: json.dumps(varying)})) as writer:
        writer.add("pack-0", [make_result("a"), make_result("b")])
    for run in trial_runs(store, writer.parent_run_id).values():
        params = list(run.data.params)
        assert params[:2] == ["seed", "optimizer.lr"]
        assert len(params) > 10
