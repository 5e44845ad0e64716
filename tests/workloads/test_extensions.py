"""Kinds and measures of users' own: what is in a file becomes kinds, and what is wrong with it one line."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.specs import spec
from workloads import measures
from workloads.engines.base import create
from workloads.engines.lanes import Lanes, Prepared
from workloads.extensions import ExtensionError, activate, active, explained, packed, read_extension, unpacked
from workloads.extensions.checking import check
from workloads.extensions.source import Extension
from workloads.extensions.trying import try_factorization
from workloads.factorizations import FACTORIZATIONS
from workloads.losses import LOSSES
from workloads.measures.numerics.snapshot import Snapshot, evaluate
from workloads.optimizers import OPTIMIZERS
from workloads.trial import TrialSpec

MODELS = Path(__file__).parents[2] / "configs" / "own" / "models.py"
OUTER = """
from workloads import Factorization, Loss, Optimizer, measure

class Outer(Factorization):
    kind = "outer"
    def shapes(self, shape):
        return {"u": (shape[0],), "v": (shape[1],)}
    def product(self, u, v):
        return u[:, None] * v
"""


@pytest.fixture(autouse=True)
def _built_in_alone():
    yield
    activate(())


def code(text, name="models.py", **named):
    """A file of this text, as it was read."""
    return Extension.of_file(name, textwrap.dedent(text).encode(), **named)


def use(text, **named):
    activate([code(text)], **named)


def tucker(kind, shape=(4, 3, 2), **changes):
    return TrialSpec.model_validate(
        {
            "problem": {"kind": "tensor_completion", "shape": list(shape), "target": {"rank": 1, "frobenius": 1.0}, "observed": 12},
            "factorization": {"kind": kind, "ranks": [2, 2, 2]},
            "init": {"kind": "gaussian", "scale": 0.4},
            "optimizer": {"kind": "gd", "lr": 0.05},
            "stop": {"steps": 300},
            **changes,
        }
    )


def trained(specs, engine="batched"):
    lanes = Lanes([Prepared(one, one.problem.realize({}), one.initial_factors({})) for one in specs], torch.device("cpu"))
    steps = np.array([one.stop.steps for one in specs])
    machine = create(engine)
    while (lanes.step < steps).any():
        machine.advance(lanes, steps, np.full(len(specs), -np.inf), 1000)
    return lanes.params, lanes.loss


@pytest.mark.parametrize("engine", ["batched", "autograd"])
def test_ten_lines_do_what_the_built_in_tucker_does(engine):
    activate([read_extension(str(MODELS))])
    own, built_in = (trained([tucker(kind, seed=seed) for seed in range(3)], engine) for kind in ("my_tucker", "tucker"))
    for mine, theirs in zip(own[0], built_in[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(own[1], built_in[1], rtol=1e-9, atol=1e-12)


def test_no_more_is_there_than_was_asked_for():
    before = (*FACTORIZATIONS, *(m.shown for m in measures.MEASURES))
    activate([read_extension(str(MODELS))])
    assert "my_tucker" in FACTORIZATIONS
    assert measures.find("gap") is not None
    activate(())
    assert (*FACTORIZATIONS, *(m.shown for m in measures.MEASURES)) == before
    assert measures.find("gap") is None


def test_ids_have_the_code_of_the_kinds_that_a_trial_is_of():
    activate([read_extension(str(MODELS))])
    first, other = tucker("my_tucker").canonical(), tucker("tucker").canonical()
    activate([code(MODELS.read_text() + "\n# a thought\n")])
    assert tucker("my_tucker").canonical() != first
    assert tucker("tucker").canonical() == other
    activate(())
    assert tucker("tucker").canonical() == other


def test_a_file_s_digest_is_what_sha256sum_says():
    said = subprocess.run(["sha256sum", MODELS], capture_output=True, text=True, check=True).stdout.split()[0]
    assert read_extension(str(MODELS)).digest == said


def test_two_versions_of_a_file_keep_their_own_arithmetic():
    # What a file says is loaded once in a process, under the name under which it was seen first.
    mine = OUTER + "# seen nowhere else\n"
    use(mine)
    old = FACTORIZATIONS["outer"]()
    content = pickle.dumps(old)
    use(mine.replace("u[:, None] * v", "2 * u[:, None] * v"))
    new = FACTORIZATIONS["outer"]()
    u, v = torch.ones(2), torch.ones(3)
    assert new.product(u, v).sum() == 12
    assert pickle.loads(content).product(u, v).sum() == 6
    assert explained_of(lambda: pickle.loads(content).product(None, v)) == "models.py:9: TypeError: 'NoneType' object is not subscriptable"


def explained_of(call):
    with pytest.raises(TypeError) as caught:
        call()
    return explained(caught.value)


def test_a_package_is_imported_from_what_was_read(tmp_path, monkeypatch):
    package = tmp_path / "labkinds"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "arithmetic.py").write_text("def outer(u, v):\n    return u[:, None] * v\n")
    (package / "models.py").write_text(
        OUTER.replace("return u[:, None] * v", "from labkinds.arithmetic import outer\n        return outer(u, v)")
    )
    monkeypatch.syspath_prepend(tmp_path)
    extension = read_extension("labkinds.models")
    assert set(extension.files) == {"labkinds/__init__.py", "labkinds/arithmetic.py", "labkinds/models.py"}
    (package / "arithmetic.py").write_text("raise SystemExit")
    activate([extension])
    # Imported only when it is called.
    assert FACTORIZATIONS["outer"]().product(torch.ones(2), torch.ones(3)).shape == (2, 3)
    assert FACTORIZATIONS["outer"].code == extension.digest != read_extension("labkinds.models").digest
    activate(())
    assert unpacked(packed([extension]).get) == (extension,)
    # Another version, in the same process.
    (package / "arithmetic.py").write_text("def outer(u, v):\n    return 3 * u[:, None] * v\n")
    activate([read_extension("labkinds.models")])
    assert FACTORIZATIONS["outer"]().product(torch.ones(2), torch.ones(3)).sum() == 18
    activate([extension])
    assert FACTORIZATIONS["outer"]().product(torch.ones(2), torch.ones(3)).sum() == 6


def test_an_entry_point_of_an_installed_package_is_a_name(tmp_path, monkeypatch):
    (tmp_path / "labkinds2.py").write_text(OUTER)
    info = tmp_path / "labkinds2-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: labkinds2\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[orchestrate]\nlab = labkinds2\n")
    monkeypatch.syspath_prepend(tmp_path)
    activate([read_extension("lab")])
    assert "outer" in FACTORIZATIONS


LOSS = """from workloads import Loss
class L(Loss):
    kind = "l"
    def pointwise(self, prediction, observation):
        return (prediction - observation).abs()
"""
BROKEN = {
    "a syntax error": ("class A(:\n", "models.py:1: invalid syntax"),
    "a name that is not there": ("import torch\nx = tensor\n", "models.py:2: NameError: name 'tensor' is not defined"),
    "an import that is not there": ("import nowhere_at_all\n", "models.py:1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
    "a missing method": (OUTER.partition("    def product")[0], "models.py:4: Outer has no method product"),
    "a missing method of a loss": (
        "from workloads import Loss\nclass L(Loss):\n    kind = 'l'\n    def of(self, residual):\n        return 0\n",
        "models.py:2: L has no method pointwise",
    ),
    "a reduction that is none": (
        LOSS + "    reduction = 'average'\n",
        'models.py:2: ValueError: reduction of L must be "sum" or "mean", not \'average\'',
    ),
    "squares that are no number": (
        LOSS + "    squares = True\n",
        "models.py:2: ValueError: squares of L must be a number above 0, or None, not True",
    ),
    "signs that are no truth": (LOSS + "    signs = 'yes'\n", "models.py:2: ValueError: signs of L must be True or False, not 'yes'"),
    "a kind that is taken": (
        OUTER.replace('"outer"', '"cp"'),
        "models.py:4: ValueError: factorization.kind cp is workloads.factorizations.cp.Cp already",
    ),
    "a measure that is taken": (
        "from workloads import measure\n\n@measure('nuclear')\ndef f(x):\n    return 0\n",
        "models.py:3: ValueError: measure nuclear is workloads.measures.norms.nuclear already",
    ),
    "a measure of no name": (
        "from workloads import measure\n@measure('a b')\ndef f(x):\n    return 0\n",
        "models.py:2: ValueError: a measure's name has letters, digits and underscores, and begins with a letter, unlike 'a b'",
    ),
    "a kind without its name": (
        LOSS.replace('    kind = "l"\n', ""),
        "models.py:2: L has no kind: give it a line such as kind = 'mine', or, if",
    ),
    "a kind on another without its name": (
        OUTER + "class Twice(Outer):\n    def product(self, u, v):\n        return 2 * u[:, None] * v\n",
        "models.py:10: Twice has no kind: ",
    ),
    "nothing": ("x = 1\n", "models.py: has neither kinds nor measures: a class needs a line such as kind = 'mine'"),
    "an end of the process": ("import sys\nsys.exit('no')\n", "models.py:2: SystemExit: no"),
    "a kind that cannot be one": (
        "from workloads import Factorization\nclass A(Factorization):\n    kind = 'a'\n    x: object()\n",
        "models.py:2: ",
    ),
}


@pytest.mark.parametrize("which", BROKEN)
def test_a_broken_file_is_one_line_and_leaves_nothing_behind(which):
    text, message = BROKEN[which]
    before = (*FACTORIZATIONS, *LOSSES, *(m.shown for m in measures.MEASURES))
    with pytest.raises(ExtensionError) as caught:
        use(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert active() == ()
    assert (*FACTORIZATIONS, *LOSSES, *(m.shown for m in measures.MEASURES)) == before


def test_bases_of_kinds_need_no_name():
    use(
        LOSS.replace('    kind = "l"\n', "")
        + "class Mine(L):\n    kind = 'mine'\nclass _Unused(L):\n    pass\nclass Open(Loss):\n    smooth = False\n"
    )
    assert "mine" in LOSSES


def test_a_measure_that_is_a_matrix_is_an_error_with_its_place():
    use("from workloads import measure\n@measure('m')\ndef m(x):\n    return x.product\n")
    wrong = [finding.text for finding in check() if finding.wrong]
    assert wrong == ["models.py:2: measure m gave an array of 2 dimensions, and neither a number nor a vector"]


def test_an_endless_import_is_an_error_that_names_its_line():
    with pytest.raises(ExtensionError, match=r"^models.py:[34]: the import takes more than 0.3 s: does it end\?$"):
        use("import time\nwhile True:\n    time.sleep(0.01)\n    x = 1\n", seconds=0.3)


def test_code_that_is_not_there():
    with pytest.raises(ExtensionError, match=r"^nowhere.py: cannot be read: No such file or directory$"):
        read_extension("nowhere.py")
    with pytest.raises(ExtensionError, match=r"^nowhere: there is no such module, and no such entry point"):
        read_extension("nowhere")
    with pytest.raises(ExtensionError, match=r"^no-name: is no file that ends in .py and no name of a module"):
        read_extension("no-name")
    with pytest.raises(ExtensionError, match=r"^workloads.trial: is part of this program$"):
        read_extension("workloads.trial")


def test_of_what_is_kept_only_files_of_code_are_read():
    files = packed([code(OUTER)])
    assert unpacked(files.get) == (code(OUTER),)
    names = files["names.json"].replace(b'"models.py": "models.py"', b'"../x.py": "../x.py"')
    with pytest.raises(ExtensionError, match=r"\.\./x.py is not among the files"):
        unpacked(lambda name: names if name == "names.json" else b"x = 1")
    with pytest.raises(ExtensionError, match="damaged"):
        unpacked(lambda name: b"[1]" if name == "names.json" else None)
    with pytest.raises(ExtensionError, match=r"there is code in another file called models.py"):
        packed([code(OUTER), code(OUTER + "\n")])


WRONG = {
    "shapes that are none": ('{"u": (shape[0],), "v": (shape[1],)}', "[1, 2]", "models.py:6: shapes of outer is list"),
    "a size that is none": ("(shape[1],)}", "(shape[1] - 9,)}", "models.py:6: shapes of outer has v: (-6,)"),
    "shapes that fail": ("(shape[1],)}", "(shape[7],)}", "models.py:7: IndexError: tuple index out of range"),
    "a product of another shape": ("u[:, None] * v", "v[:, None] * u", "models.py:8: product of outer is [3, 4], not [4, 3]"),
    "a product that is none": ("u[:, None] * v", "3", "models.py:8: product of outer is int, not [4, 3]"),
    "a product that fails": ("u[:, None] * v", "torch.nothing(u)", "models.py:9: NameError: name 'torch' is not defined"),
    "a product that takes other factors": ("product(self, u, v)", "product(self, u)", "models.py:8: product of outer: TypeError: "),
    "products that mix lanes": (
        "        return u[:, None] * v\n",
        "        return u[:, None] * v\n    def products(self, factors):\n        return factors[0].cumsum(0)[:, :, None] * factors[1][:, None]\n",
        "models.py:10: products of outer mixes runs: what one has changes another's",
    ),
    "a product that remembers": (
        "        return u[:, None] * v\n",
        "        seen.append(0)\n        return u[:, None] * v + len(seen)\nseen = []\n",
        "models.py:8: product of outer mixes runs: what one has changes another's",
    ),
}


@pytest.mark.parametrize("which", WRONG)
def test_a_factorization_that_is_wrong_is_one_line(which):
    right, wrong, message = WRONG[which]
    assert right in OUTER
    use(OUTER.replace(right, wrong))
    with pytest.raises(ExtensionError) as caught:
        try_factorization(FACTORIZATIONS["outer"](), (4, 3))
    assert str(caught.value).startswith(message)


def test_an_endless_product_is_an_error_that_names_its_line():
    use(OUTER.replace("        return u[", "        import time\n        while True:\n            time.sleep(0.01)\n        return u["))
    with pytest.raises(ExtensionError, match=r"^models.py:1[01]: product of outer takes more than 0.3 s: does it end\?$"):
        try_factorization(FACTORIZATIONS["outer"](), (4, 3), 0.3)


def test_a_product_that_looks_at_numbers_is_computed_lane_by_lane():
    use(OUTER.replace("        return u[", "        if u.abs().max() > 1:\n            return -u[:, None] * v\n        return u["))
    model = FACTORIZATIONS["outer"]()
    u, v = torch.tensor([[0.5, 0.5], [2.0, 2.0]]), torch.ones(2, 3)
    assert model.products([u, v])[:, 0, 0].tolist() == [0.5, -2.0]
    specs = [spec(factorization={"kind": "outer"}, seed=seed, init__scale=1.0) for seed in range(4)]
    together, apart = trained(specs), [trained([one]) for one in specs]
    for lane, alone in enumerate(apart):
        assert all(mine[lane].equal(theirs[0]) for mine, theirs in zip(together[0], alone[0], strict=True))


def test_what_a_base_has_written_by_hand_is_not_used_of_another_product():
    use(
        "from workloads.factorizations.tucker import Tucker\nfrom workloads.optimizers.gd import Gd\n"
        "class Twice(Tucker):\n    kind = 'twice'\n    def product(self, *factors):\n        return 2 * super().product(*factors)\n"
        "class Slow(Gd):\n    kind = 'slow'\n    @classmethod\n    def bind(cls, *given):\n        return lambda: None\n"
    )
    factors = [torch.ones(1, 2, 2, 2), *(torch.ones(1, 3, 2) for _ in range(3))]
    twice = FACTORIZATIONS["twice"](ranks=(2, 2, 2))
    assert twice.products(factors).sum() == 2 * FACTORIZATIONS["tucker"](ranks=(2, 2, 2)).products(factors).sum()
    assert OPTIMIZERS["slow"].kernel is None


MEASURED = """
from workloads import measure

@measure("first_two")
def first_two(x):
    return x.singular_values[:2]

@measure("far")
def far(x):
    return (x.product - x.truth).abs().max().item()

@measure("tenth", summary="a tenth of the loss")
def tenth(x):
    return x.loss / 10

@measure("of_factors")
def of_factors(x):
    return [f.norm() for f in x.factors.values()] + [len(x.factors)]
"""


def test_measures_of_one_run_fill_columns():
    use(MEASURED)
    one = spec()
    assert measures.column_names("first_two", one) == ("first_two_0", "first_two_1")
    assert measures.column_names("far", one) == ("far",)
    assert measures.column_names("of_factors", one) == ("of_factors_0", "of_factors_1", "of_factors_2")
    problem = one.problem.realize({})
    params = [torch.randn(5, *shape, dtype=torch.float64) for shape in one.factor_shapes.values()]
    loss = torch.arange(5.0)
    shot = Snapshot(one.factorization, params, loss, [problem] * 5, 1e-16)
    values = evaluate(["first_two", "far", "tenth", "of_factors"], shot)
    np.testing.assert_allclose(values[:, :2], shot.singular_values[:, :2])
    np.testing.assert_allclose(values[:, 2], (shot.product - shot.truth).abs().flatten(1).max(1)[0])
    np.testing.assert_allclose(values[:, 3], loss / 10)
    np.testing.assert_allclose(values[:, 4:6], torch.stack([p.flatten(1).norm(dim=1) for p in params], 1))
    # One run's are the same bits whatever is measured beside it.
    alone = evaluate(["first_two", "far"], Snapshot(one.factorization, [p[2:3] for p in params], loss[2:3], [problem], 1e-16))
    assert (alone[0, 2] == values[2, 2]).all()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 'much'", "measure m gave str, and neither a number nor a vector"),
        ("return None", "measure m gave NoneType"),
        ("return x.product", "measure m gave an array of 2 dimensions"),
        ("return x.producct", "models.py:4: AttributeError: 'Run' object has no attribute 'producct'"),
    ],
)
def test_a_measure_that_is_wrong_says_so(body, message):
    use(f"from workloads import measure\n@measure('m')\ndef m(x):\n    {body}\n")
    with pytest.raises((ValueError, AttributeError)) as caught:
        measures.column_names("m", spec())
    assert (explained(caught.value) or str(caught.value)).startswith(message)


def test_a_class_of_this_program_is_not_imported_to_name_it():
    text = "import sys, workloads; from workloads import Factorization; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", text], check=True)


OF_VECTORS = """
import numpy as np
from workloads import Factorization, Problem, measure
from workloads.problems.data.realized import ProblemData

class Cubed(Factorization):
    kind = "cubed"

    def shapes(self, shape):
        return {"u": shape}

    def product(self, u):
        return u**3 if u.dim() == 1 else u[:, None]

class Ramp(Problem):
    kind = "ramp"
    order = 1
    sensing = True
    invents = True

    def realize(self, files):
        (size,) = self.shape
        truth = np.arange(size) / size
        rows = np.eye(size)[::2]
        return ProblemData(self.shape, len(rows), truth, measurements=rows, values=rows @ truth)

@measure("rise")
def rise(x):
    (size,) = x.product.shape
    return (x.product[-1] - x.product[0]) / size
"""


def test_kinds_of_vectors_are_tried_on_vectors():
    use(OF_VECTORS)
    found = list(check())
    assert not [finding.text for finding in found if finding.wrong]
    texts = [finding.text for finding in found]
    assert "factorization cubed on 6:" in texts
    assert "problem ramp on 6:" in texts
    assert any(text.startswith("measure rise: column rise, on 6") for text in texts)
