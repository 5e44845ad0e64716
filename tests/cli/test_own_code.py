"""`orchestrate check` and --with, by what they say: a line for each thing that is wrong with code of a user's own, and exit code 2."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.commands import call
from workloads.extensions import activate

OWN = Path(__file__).parents[2] / "configs" / "own"
KINDS = """\
import numpy as np
import torch
from workloads import Factorization, Init, Loss, Optimizer, Problem, ProblemData, measure


class Outer(Factorization):
    kind = "outer"
    sign: int = 1

    def shapes(self, shape):
        return {"u": (shape[0],), "v": (shape[1],)}

    def product(self, u, v):
        return self.sign * u[:, None] * v


class Ones(Init):
    kind = "ones"
    size: float

    def draw(self, factorization, shape, rng, files):
        return [self.size * (1 + rng.standard_normal(s)) for s in factorization.shapes(shape).values()]


class Huge(Loss):
    kind = "huge"
    reduction = "mean"

    def pointwise(self, prediction, observation):
        residual = prediction - observation

        return 3 * residual.abs()


class Signed(Optimizer):
    kind = "signed"

    @classmethod
    def bind(cls, params, grads, state, hyper):
        def step():
            for w, g in zip(params, grads):
                w -= hyper["lr"].view(-1, *[1] * (w.dim() - 1)) * g.sign()

        return step


class Stripes(Problem):
    kind = "stripes"
    invents = True

    def realize(self, files):
        truth = np.ones(self.shape)
        truth[::2] = np.random.default_rng(self.seed).standard_normal(self.shape[1])
        mask = np.random.default_rng(self.seed + 1).random(self.size) < 0.7
        return ProblemData(self.shape, int(mask.sum()), truth.reshape(-1), mask=mask, target=np.where(mask, truth.reshape(-1), 0.0))


@measure("spread")
def spread(x):
    return x.singular_values[0] / x.singular_values[-1]
"""
GRID = """\
name: mine
needs: models.py
fixed:
  problem: {kind: stripes, shape: [4, 3]}
  factorization: {kind: outer}
  init: {kind: ones, size: 0.5}
  optimizer: {kind: signed, lr: 0.01}
  loss: huge
  stop: {steps: 10}
record: {measures: [error, spread]}
"""


@pytest.fixture
def folder(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "models.py").write_text(KINDS)
    (work / "grid.yaml").write_text(GRID)
    yield work
    activate(())


def test_check_tries_every_kind(folder):
    done = call(folder, "check", "models.py")
    assert done.stderr == ""
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].partition(": ")[2] == ("problem stripes, factorization outer, init ones, optimizer signed, loss huge, measure spread")
    for said in (
        "factorization outer on 5x4:",
        "  factors: u 5, v 4",
        "  runs: independent of each other; the same bits alone and in a pack",
        "optimizer signed on 5x4:",
        "measure spread: column spread, on 5x4",
        "loss huge on 5x4:",
    ):
        assert said in lines
    assert sum(line.startswith("  gradient: as finite differences have it") for line in lines) == 1
    assert [line.split(" on ")[1].split(",")[0] for line in lines if "trial-steps/s on" in line] == ["fused", "batched", "fused"]
    assert any(line.startswith("  loss: the mean over the observations; its derivative is as finite differences have it") for line in lines)
    assert any(line.startswith("  engine: batched, not fused: it has no kernels for") for line in lines)


def test_check_takes_keys_and_shapes_of_a_grid(folder):
    done = call(folder, "check", "models.py", "--grid", "grid.yaml", "--set", "factorization.sign=[1, -1]")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("factorization outer on 4x3:") == 2
    assert "measure spread: column spread, on 4x3" in done.stdout


WRONG = {
    "a gradient that is not the product's": (
        "return self.sign * u[:, None] * v",
        "return (u + u.detach())[:, None] * v / 2",
        "models.py:13: the gradient of outer is not that of its product: finite differences differ by",
    ),
    "a factor without a gradient": ("u[:, None] * v", "u[:, None].detach() * v", "models.py:13: the gradient of outer is not that of its product"),
    "an endless product": (
        "return self.sign * u[:, None] * v",
        "while True: torch.sum(u)",
        "models.py:14: product of outer takes more than 1 s: does it end?",
    ),
    "a start that is drawn elsewhere": ("rng.standard_normal(s)", "np.random.standard_normal(s)", "models.py:21: draw of ones gives other factors each"),
    "a start of other factors": (" for s in factorization.shapes(shape).values()]", " for s in [(2,)]]", "models.py:21: draw of ones gives factors 2, not 4x4, 5x4"),
    "a loss that mixes observations": ("3 * residual.abs()", "(residual - residual.mean()).abs()", "models.py:29: pointwise of huge mixes observations"),
    "a loss below zero": ("3 * residual.abs()", "3 * residual", "models.py:29: pointwise of huge is -6.6 at -1.9, below zero"),
    "a loss without its slope": ("residual.abs()", "residual.detach().abs() + 0 * residual", "models.py:29: the derivative of huge is not that of its"),
    "steps that mix runs": ("* g.sign()", "* g.sign().cumsum(0)", "models.py:38: bind of signed mixes runs"),
    "data that are others each time": ("default_rng(self.seed)", "default_rng()", "models.py:51: realize of stripes gives other data each time"),
    "data that are missing": ("mask=mask, target", "target", "models.py:51: realize of stripes gives no mask and target"),
    "a key that nobody can guess": ("sign: int = 1", "sign: dict", "models.py:6: outer cannot be tried without its sign: give a grid that has it"),
    "a measure that fails": ("x.singular_values[-1]", "x.singular_values[9]", "models.py:60: IndexError: index 9 is out of bounds"),
    "an endless import": ("import numpy", "while True: pass\nimport numpy", "models.py:1: the import takes more than 1 s: does it end?"),
    "a syntax error": ("class Ones(Init):", "class Ones(Init)", "models.py:17: expected ':'"),
}  # fmt: skip


@pytest.mark.parametrize("which", WRONG)
def test_check_says_in_a_line_what_is_wrong(which, folder):
    right, wrong, message = WRONG[which]
    assert right in KINDS
    (folder / "models.py").write_text(KINDS.replace(right, wrong))
    deadline = ["--deadline", "1"] if "endless" in which else []
    done = call(folder, "check", "models.py", *deadline)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2
    assert errors[0].startswith(f"error: {message}")
    assert len(errors) == 1 or "endless product" in which
    assert "Traceback" not in done.stderr


def test_without_the_option_a_grid_is_an_error_that_names_it(folder):
    for command in ("plan", "submit"):
        done = call(folder, command, "grid.yaml")
        assert done.returncode == 2
        assert done.stderr == "error: grid.yaml:2:1: needs: models.py is code, which a grid alone never runs: give it as --with models.py\n"
    assert {path.name for path in folder.iterdir()} == {"models.py", "grid.yaml"}


def test_plan_schema_and_help_know_own_kinds(folder):
    done = call(folder, "plan", "grid.yaml", "--with", "models.py")
    assert "batched  outer 4x3 (4 3): 1 trial," in done.stdout
    assert '"outer"' in call(folder, "schema", "--with", "models.py").stdout
    assert "factorization.kind" in call(folder, "help", "outer", "--with", "models.py").stdout
    assert call(folder, "help", "outer").returncode == 2


def test_slurm_finds_the_file_from_anywhere(folder):
    done = call(folder, "slurm", "grid.yaml", "--time", "1:00:00", "--with", "models.py", "--dry-run")
    assert f"--with {folder}/models.py" in done.stdout


def test_what_fails_in_own_code_is_a_line(folder):
    (folder / "models.py").write_text(
        KINDS.replace("    invents = True\n", "    invents = True\n    def observations(self):\n        return 1 // 0\n")
    )
    done = call(folder, "plan", "grid.yaml", "--with", "models.py")
    assert (done.returncode, done.stderr) == (2, "error: models.py:51: ZeroDivisionError: integer division or modulo by zero\n")


def test_the_shipped_models_are_well(folder):
    shutil.copy(OWN / "models.py", folder)
    shutil.copy(OWN / "grid.yaml", folder)
    done = call(folder, "check", "models.py", "--grid", "grid.yaml")
    assert (done.returncode, done.stderr) == (0, "")
