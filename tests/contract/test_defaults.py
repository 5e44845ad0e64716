"""A default that is spelled out gives the trial id that it has without: for every key of every kind."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from orchestrator.grid import parse_grid
from orchestrator.grid.identity import trial_id
from tests.contract.references import INITS, LOSSES, OPTIMIZERS, pairs, spec
from workloads.section import Section
from workloads.trial import TrialSpec

SPELLED: dict[str, Any] = {
    "problem.noise.distribution": "normal",
    "problem.noise.seed": lambda one: one.problem.seed,
    "problem.signs": False,
    "problem.correlation": 0.0,
    "problem.held_out": lambda one: one.problem.size - one.problem.observations() if "completion" in one.problem.kind else None,
    "problem.target.sparsity": lambda one: one.shape[0] if len(one.shape) == 1 and one.problem.target.domain is None else None,
    "problem.target.arity": lambda one: 2 if one.problem.target.kind else None,
    "problem.target.pattern": lambda one: "adjacent" if one.problem.target.kind else None,
    "factorization.widths": lambda one: one.factorization.resolved(one.shape)["widths"],
    "factorization.components": lambda one: one.factorization.resolved(one.shape)["components"],
    "factorization.width": lambda one: one.factorization.resolved(one.shape)["width"],
}
"""What a key means that is left out and has no value of its own then; ``None`` where nothing says the same in a trial."""
OFF = {
    *(f"problem.{key}" for key in ("shape", "target", "file", "observed", "noise", "entries", "measurements", "noise.share")),
    *(f"problem.target.{key}" for key in ("kind", "rank", "domain", "widths", "condition", "spectrum")),
    *(f"init.{key}" for key in ("det_sign", "scale", "product_scale", "scales")),
    *(f"optimizer.{key}" for key in ("schedule", "clip", "weight_decay", "batch", "label_noise")),
    *(f"optimizer.schedule.{key}" for key in ("warmup", "cosine", "milestones", "factors")),
    *(f"stop.{key}" for key in ("loss", "when", "abort", "steps", "seconds")),
}
"""Keys without which there is nothing of the kind: no value stands for that."""
TREE = {"kind": "tensor_completion", "shape": [2, 2, 2, 2], "target": {"kind": "hierarchical", "widths": [2, 2]}, "observed": 8}
BASES = {
    **{"-".join(pair): spec(*pair) for pair in pairs()},
    **{kind: spec("matrix_completion", "deep_matrix", kind) for kind in OPTIMIZERS},
    **{kind: spec("matrix_completion", "deep_matrix", "gd", kind) for kind in LOSSES},
    **{kind: spec("matrix_completion", "deep_matrix", init={"kind": kind, **row.keys}) for kind, row in INITS.items()},
    "schedule": spec("matrix_completion", "deep_matrix", optimizer={"kind": "gd", "lr": 0.1, "schedule": {"cosine": 9}}),
    "loss": spec("matrix_completion", "deep_matrix", stop={"loss": 0.1, "steps": 10}),
    "tree": spec("tensor_completion", "hierarchical", keys={"widths": [3, 2]}, problem=TREE),
    "seed": spec("matrix_completion", "linear", problem={**TREE, "kind": "matrix_completion", "shape": [3, 4], "target": {"rank": 2}, "seed": 7, "noise": {"std": 0.1}}),
    "entries": spec("matrix_completion", "linear", problem={"kind": "matrix_completion", "shape": [2, 2], "entries": [[0, 1, 1.0]], "noise": {"std": 1.0}, "seed": 3}),
}  # fmt: skip


def fields(section: Section, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every key of a section, and of those in it, that has a default, with that."""
    for name, field in type(section).model_fields.items():
        inner = getattr(section, name)
        if isinstance(inner, Section) and type(inner).__name__ != "FileRef":
            yield from fields(inner, f"{prefix}.{name}")
        if not field.is_required():
            yield f"{prefix}.{name}", field.default


def changed(plain: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A spec with the value of a dotted key, or without it."""
    out = copy.deepcopy(plain)
    *above, last = key.split(".")
    inner = out
    for step in above:
        if isinstance(inner[step], str):
            inner[step] = {"kind": inner[step]}
        inner = inner[step]
    inner.pop(last, None)
    if value is not None:
        inner[last] = value
    return out


@pytest.mark.parametrize("name", BASES)
def test_a_default_that_is_spelled_out_is_the_same_trial(name):
    one = BASES[name]
    plain = one.model_dump(mode="json", exclude_unset=True)
    for part in ("problem", "factorization", "init", "optimizer", "loss", "stop"):
        section = getattr(one, part)
        for key, default in fields(section, part) if section is not None else ():
            if default is None:
                assert (key in OFF) != (key in SPELLED), f"say in this file what {key} means where it is left out"
            if key in OFF:
                continue
            try:
                without = TrialSpec.model_validate(changed(plain, key, None))
            except ValueError as error:
                assert re.search("arity|signs", str(error)), f"{key} cannot be left out: {error}"
                continue
            value = SPELLED[key] if default is None else default
            value = value(without) if callable(value) else value
            if value is None:
                continue
            value = value.model_dump(mode="json") if isinstance(value, Section) else value
            value = list(value) if isinstance(value, tuple) else value
            try:
                spelled = TrialSpec.model_validate(changed(plain, key, value))
            except ValueError as error:
                assert "has no effect" in str(error), f"{key}: {error}"
                continue
            assert trial_id(spelled) == trial_id(without), key


def test_noise_that_alone_is_drawn_is_that_of_either_seed():
    one = BASES["entries"]
    other = changed(changed(one.model_dump(mode="json", exclude_unset=True), "problem.seed", None), "problem.noise.seed", 3)
    spelled = TrialSpec.model_validate(other)
    assert trial_id(spelled) == trial_id(one)
    assert (spelled.problem.realize({}).target == one.problem.realize({}).target).all()
    assert trial_id(TrialSpec.model_validate(changed(other, "problem.noise.seed", 4))) != trial_id(one)


def grid_id(folder, problem, factorization="{kind: deep_matrix, depth: 2}"):
    text = (
        f"name: g\nfixed:\n  problem: {problem}\n  factorization: {factorization}\n  init: {{kind: gaussian, scale: 0.1}}\n"
        "  optimizer: {kind: gd, lr: 0.1}\n  stop: {steps: 10}\n"
    )
    (trial,) = parse_grid(text, folder=folder).trials
    return trial


def test_what_a_file_lists_is_all_seen_whether_that_is_said_or_not(tmp_path):
    (tmp_path / "e.csv").write_text("".join(f"{i},{j},{i - j}\n" for i in range(4) for j in range(3) if i != j))
    listed = "kind: matrix_completion, shape: [4, 3], file: e.csv"
    assert grid_id(tmp_path, f"{{{listed}}}").trial_id == grid_id(tmp_path, f"{{{listed}, observed: 9}}").trial_id
    some = grid_id(tmp_path, f"{{{listed}, held_out: 3}}")
    both = grid_id(tmp_path, f"{{{listed}, held_out: 3, observed: 6}}")
    fewer = grid_id(tmp_path, f"{{{listed}, held_out: 3, observed: 5}}")
    assert some.trial_id == both.trial_id != fewer.trial_id


def test_examples_of_a_file_are_seen_or_held_out_whichever_is_said(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", design=rng.standard_normal((9, 4)), values=rng.standard_normal(9))
    ids = [
        grid_id(tmp_path, f"{{kind: regression, file: x.npz{keys}}}", "{kind: diagonal, depth: 2}").trial_id
        for keys in ("", ", observed: 9", ", observed: 6", ", held_out: 3", ", observed: 6, held_out: 3", ", observed: 6, held_out: 2")
    ]
    assert ids[0] == ids[1] != ids[2] == ids[3] == ids[4] != ids[5]


def test_the_rest_of_a_truth_is_held_out_whether_that_is_said_or_not():
    one = spec("matrix_completion", "deep_matrix")
    for more in ({}, {"noise": {"std": 0.1}}, {"signs": True}):
        plain = one.model_dump(mode="json", exclude_unset=True)
        plain["problem"] |= more
        both = [TrialSpec.model_validate(changed(plain, "problem.held_out", count)) for count in (None, 4)]
        (first, second) = (each.problem.realize({}).held_out for each in both)
        assert (first is None) == (second is None)
        if first is not None:
            assert (first[0] == second[0]).all()
            assert (first[1] == second[1]).all()
