"""Grids of users' own kinds and measures: code is given beside them, never by them, and belongs to trials' ids and what they record."""

from __future__ import annotations

from pathlib import Path

import pytest

import orchestrator
from orchestrator.errors import CodeError, GridError
from orchestrator.extensions import use
from orchestrator.grid import load_grid, parse_grid
from orchestrator.grid.guide import topics
from orchestrator.grid.own_code import try_kind
from orchestrator.grid.schema import json_schema
from orchestrator.grid.written import spec_keys
from orchestrator.sweeps.submit import recording_of
from orchestrator.tracking.layout import lacking, recording_tag
from workloads.extensions import activate
from workloads.factorizations import FACTORIZATIONS

OWN = Path(__file__).parents[2] / "configs" / "own"
MODELS = OWN / "models.py"
GRID = """\
name: mine
needs: models.py
fixed:
  problem: {kind: tensor_completion, shape: [3, 3, 3], target: {rank: 1}, observed: 12}
  factorization: {kind: my_tucker, ranks: [2, 2, 2]}
  init: {kind: gaussian, scale: 0.1}
  optimizer: {kind: gd, lr: 0.1}
  stop: {steps: 10}
record: {measures: [error, gap]}
"""


@pytest.fixture(autouse=True)
def _built_in_alone():
    yield
    activate(())


def errors(text, folder=Path()):
    with pytest.raises(GridError) as caught:
        parse_grid(text, "g.yaml", folder)
    return caught.value.mistakes


def test_a_grid_alone_runs_no_code(tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "models.py").write_text(f"open({str(ran)!r}, 'w')\n")
    (tmp_path / "g.yaml").write_text(GRID)
    with pytest.raises(GridError) as caught:
        load_grid(tmp_path / "g.yaml")
    given = f"--with {tmp_path / 'models.py'}"
    assert caught.value.mistakes == [f"{tmp_path}/g.yaml:2:1: needs: models.py is code, which a grid alone never runs: give it as {given}"]
    assert not ran.exists()
    assert errors(GRID.replace("models.py", "[lab.models]")) == [
        "g.yaml:2:9: needs: lab.models is code, which a grid alone never runs: give it as --with lab.models"
    ]
    assert errors(GRID.replace("models.py", "{a: b}"))[0].startswith("g.yaml:2:1: needs: must be the name of a file or module")
    assert "is code" in errors(GRID.replace("models.py", "x" * 300 + ".py"))[0]


def test_a_module_that_is_a_single_file_goes_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "lab.py").write_bytes(MODELS.read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    for needed in ("lab", "lab.py"):
        for given in ("lab", str(tmp_path / "lab.py")):
            use([given])
            text = GRID.replace("models.py", needed).replace("my_tucker", "tucker").replace(", gap", "")
            assert [extension.name for extension in parse_grid(text).extensions] == ["lab.py"]
    assert errors(GRID.replace("models.py", "labs"))[0].endswith("give it as --with labs")


def test_an_unknown_kind_tells_of_the_option():
    (mistake,) = errors(GRID.replace("needs: models.py\n", "").replace(", gap", ""))
    assert mistake.startswith("g.yaml:4:19: factorization.kind: unknown kind 'my_tucker'")
    assert "--with FILE.py" in mistake


def test_what_is_used_of_code_goes_with_the_grid():
    use([str(MODELS)])
    (mine,) = parse_grid(GRID).extensions
    assert mine.name == "models.py"
    plain = GRID.replace("my_tucker", "tucker")
    assert [e.name for e in parse_grid(plain).extensions] == ["models.py"]  # its measure is recorded
    # What the grid needs is asked for wherever it is loaded again.
    assert len(parse_grid(plain.replace(", gap", "")).extensions) == 1
    assert parse_grid(plain.replace(", gap", "").replace("needs: models.py\n", "")).extensions == ()


def test_ids_and_records_tell_versions_apart_where_they_are_used(tmp_path):
    changed = tmp_path / "models.py"
    changed.write_text(MODELS.read_text() + "\n")
    seen = []
    for path in (MODELS, changed):
        use([str(path)])
        grids = [parse_grid(text) for text in (GRID, GRID.replace("my_tucker", "tucker"), GRID.replace(", gap", ""))]
        seen.append([(grid.trials[0].trial_id, recording_tag(recording_of(grid).as_json())) for grid in grids])
    (own, gap), (built_in, _), (_, plain) = seen[0]
    (own_now, gap_now), (built_in_now, _), (_, plain_now) = seen[1]
    assert own != own_now
    assert built_in == built_in_now
    assert lacking(gap, gap_now) == "recorded by other code of gap"
    assert lacking(gap, gap) is None
    assert plain == plain_now


def test_a_measure_that_ends_trials_is_part_of_their_ids(tmp_path):
    changed = tmp_path / "models.py"
    changed.write_text(MODELS.read_text() + "\n")
    text = GRID.replace("my_tucker", "tucker").replace(", gap", "").replace("needs: models.py\n", "")
    ids = []
    for path in (MODELS, changed):
        use([str(path)])
        grids = [parse_grid(text.replace("steps: 10", f"steps: 10, when: {when}")) for when in ("gap < 1e-9", "error < 1e-9")]
        assert [len(grid.extensions) for grid in grids] == [1, 0]
        ids.append([grid.trials[0].trial_id for grid in grids])
    assert ids[0][0] != ids[1][0]
    assert ids[0][1] == ids[1][1]


def test_in_python_each_call_has_the_code_that_it_names(tmp_path):
    edited = tmp_path / "models.py"
    edited.write_text(MODELS.read_text())
    first = orchestrator.plan(OWN / "grid.yaml", modules=MODELS).packs[0].trials[0]
    assert orchestrator.plan(OWN / "grid.yaml", modules=[edited]).packs[0].trials[0] == first
    edited.write_text(edited.read_text() + "\n")
    assert orchestrator.plan(OWN / "grid.yaml", modules=[edited]).packs[0].trials[0].trial_id != first.trial_id
    with pytest.raises(GridError, match="give it as --with"):
        orchestrator.plan(OWN / "grid.yaml")


def test_keys_of_own_kinds_are_known_while_they_are_there():
    assert "factorization.ranks" in spec_keys()
    assert not topics_of("my_tucker")
    use([str(MODELS)])
    words = topics_of("my_tucker")
    assert words[0].words == "A core multiplied by a matrix in each mode, for tensors of order three."
    assert words[0].fields[0].words == "Dimensions of the core."
    assert words[0].fields[0].values == "list of whole numbers"
    assert topics_of("gap")[0].words.startswith("By how much the largest entry")
    kinds = json_schema()["$defs"]["factorization.kind"]["enum"]
    assert "my_tucker" in kinds


def topics_of(word):
    try:
        return topics(word)
    except Exception:
        return []


BROKEN = {
    "a product of another shape": ('ijk", core', 'jik", core', "models.py:18: product of my_tucker is [4, 3, 3], not [3, 4, 3]"),
    "a measure that fails": ("x.product.abs().max()", "x.produkt", "models.py:25: AttributeError: 'Run' object has no attribute 'produkt'"),
    "a measure that is a matrix": (
        "x.product.abs().max() - x.product.abs().median()",
        "x.product",
        "models.py:22: measure gap gave an array of 3 dimensions, and neither a number nor a vector",
    ),
    "shapes that fail": (
        "tuple(self.ranks)}",
        "tuple(self.rank)}",
        "models.py:16: AttributeError: 'MyTucker' object has no attribute 'rank'",
    ),
}


@pytest.mark.parametrize("which", BROKEN)
def test_what_is_wrong_with_code_is_one_line_before_anything_is_created(which, tmp_path, monkeypatch):
    right, wrong, message = BROKEN[which]
    text = MODELS.read_text()
    assert right in text
    (tmp_path / "models.py").write_text(text.replace(right, wrong))
    monkeypatch.chdir(tmp_path)
    use(["models.py"])
    with pytest.raises(CodeError) as caught:
        parse_grid(GRID.replace("[3, 3, 3]", "[3, 4, 3]"))
    assert str(caught.value) == message


LOSSES = {
    "(prediction - observation)": "is -2.2 at -1.9, below zero",
    "(prediction - observation).square().sum()": "mixes observations, or gives no number for each",
    "(prediction - observation).square() / 0 * 0": "is finite for none of the predictions -1.9 to 2.1",
    "(prediction - observation).squar()": "AttributeError: 'Tensor' object has no attribute 'squar'",
}


@pytest.mark.parametrize("body", LOSSES)
def test_a_loss_that_cannot_be_trained_is_one_line_before_anything_is_created(body, tmp_path, monkeypatch):
    text = "from workloads import Loss\nclass Mine(Loss):\n    kind = 'mine'\n    def pointwise(self, prediction, observation):\n"
    (tmp_path / "losses.py").write_text(f"{text}        return {body}\n")
    monkeypatch.chdir(tmp_path)
    use(["losses.py"])
    grid = GRID.replace("models.py", "losses.py").replace("{kind: my_tucker, ranks", "{kind: tucker, ranks").replace(", gap", "")
    with pytest.raises(CodeError) as caught:
        parse_grid(grid.replace("  stop:", "  loss: mine\n  stop:"))
    said = LOSSES[body]
    assert str(caught.value) == (f"losses.py:5: {said}" if "Error" in said else f"losses.py:4: pointwise of mine {said}")


def test_shapes_that_never_end_are_an_error_before_anything_is_created(tmp_path, monkeypatch):
    (tmp_path / "models.py").write_text(
        MODELS.read_text().replace("        return {", "        while True:\n            __import__('time').sleep(0.01)\n        return {")
    )
    monkeypatch.chdir(tmp_path)
    use(["models.py"])
    model = FACTORIZATIONS["my_tucker"](ranks=[2, 2, 2])
    with pytest.raises(CodeError, match=r"^models.py:1[67]: a look at my_tucker takes more than 0.3 s: does it end\?$"):
        try_kind(model, (3, 3, 3), lambda: list(model.conflicts((3, 3, 3))), 0.3)


def test_the_shipped_grid_of_own_kinds_loads():
    use([str(MODELS)])
    grid = load_grid(OWN / "grid.yaml")
    assert {trial.spec.factorization.kind for trial in grid.trials} == {"my_tucker"}
