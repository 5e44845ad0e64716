"""Imports go down only, package by package and without circles, and every heavy library has one home: read off the imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.processes import run

ROOT = Path(__file__).parents[1]
HOMES = {
    "ray": "orchestrator/cluster/",
    "grpc": "orchestrator/cluster/",
    "mlflow": "orchestrator/tracking/",
    "yaml": "orchestrator/grid/",
    "click": "orchestrator/cli/",
    "rich": "orchestrator/cli/",
    "warp": "workloads/engines/",
    "torch": "workloads/",
    "altair": "orchestrator/analysis/",
    "scipy": "orchestrator/analysis/",
    "jinja2": "orchestrator/analysis/",
    "fsspec": "orchestrator/storage/",
}
"""Where a library may be imported, besides what is listed in `EXCEPTIONS`."""
EXCEPTIONS = {
    ("torch", "orchestrator/execution/worker.py"),  # sets threads and the device
}


def imports(source: str) -> Iterator[str]:
    """All modules that a source imports, also inside functions and for type checking only."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            yield node.module


LAYERS = [
    *(
        "workloads.amounts",
        "workloads.rng",
        "workloads.arrays",
        "workloads.caches",
        "workloads.section",
        "workloads.comparisons",
        "workloads.expressions",
        "workloads.stepping",
        "workloads.mode_tree",
        "workloads.stop",
    ),
    "workloads.kinds",
    *("workloads.problems", "workloads.losses", "workloads.optimizers", "workloads.factorizations", "workloads.inits"),
    *("workloads.trial", "workloads.engines", "workloads.measures", "workloads.extensions", "workloads.training"),
    *("orchestrator.errors", "orchestrator.options", "orchestrator.files", "orchestrator.liveness", "orchestrator.deadline"),
    "orchestrator.git",
    *(
        "orchestrator.planning",
        "orchestrator.extensions",
        "orchestrator.storage",
        "orchestrator.grid",
        "orchestrator.tracking",
        "orchestrator.analysis",
    ),
    *(
        "orchestrator.execution",
        "orchestrator.cluster",
        "orchestrator.diagnosis",
        "orchestrator.sweeps",
        "orchestrator.scripting",
        "orchestrator.cli",
    ),
]
"""From the bottom to the top: a package may import those before it."""


def violations(path: str, source: str) -> list[str]:
    found = []
    own = _layer(path.removesuffix(".py").replace("/", "."))
    for module in imports(source):
        top = module.partition(".")[0]
        if top in HOMES and not path.startswith(HOMES[top]) and (top, path) not in EXCEPTIONS:
            found.append(f"{path} imports {module}, whose home is {HOMES[top]}")
        if own is not None and (other := _layer(module)) is not None and other > own:
            found.append(f"{path} imports {module}, which lies above it")
        if own is None and path.count("/") > 1:
            found.append(f"{path} is in no layer: add its package to LAYERS")
    return found


def _layer(module: str) -> int | None:
    package = ".".join(module.split(".")[:2])
    return LAYERS.index(package) if package in LAYERS else None


SOURCES = [p for folder in ("orchestrator", "workloads") for p in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path):
    assert violations(str(path.relative_to(ROOT)), path.read_text()) == []


def test_no_module_imports_itself_by_way_of_others():
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in SOURCES}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in modules:
                graph[name] |= {inner if (inner := f"{node.module}.{a.name}") in modules else node.module for a in node.names}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("workloads/training/loop.py", "def f():\n    import ray"),
        ("workloads/trial.py", "from orchestrator.errors import GridError"),
        ("orchestrator/sweeps/submit.py", "from mlflow.tracking import MlflowClient"),
        ("orchestrator/planning/plan.py", "import torch.nn"),
        ("orchestrator/grid/load.py", "from orchestrator.cli.options import x"),
        ("orchestrator/planning/pack.py", "if TYPE_CHECKING:\n    from orchestrator.cluster.pool import Workers"),
        ("workloads/problems/base.py", "from workloads.trial import TrialSpec"),
    ],
)
def test_the_check_itself_finds_offenders(path, source):
    assert violations(path, source)


@pytest.mark.parametrize(
    ("statement", "light"),
    [
        ("from orchestrator.cli.main import cli; cli.main(['--help'], standalone_mode=False)", {"torch", "ray", "mlflow", "pandas", "numpy", "yaml"}),
        ("from orchestrator.cli.main import cli; cli.main(['plan', 'configs/quickstart.yaml'], standalone_mode=False)", {"torch", "ray", "mlflow", "warp"}),
        ("from orchestrator.cli.main import cli; cli.main(['status', '--help'], standalone_mode=False)", {"torch", "ray", "mlflow", "pandas"}),
        ("import orchestrator.sweeps.submit, orchestrator.cluster.pool, orchestrator.cluster.connection", {"torch", "ray", "mlflow"}),
        ("import orchestrator.tracking.write.writer, orchestrator.tracking.read.queries", {"mlflow", "torch", "ray"}),
        ("from benchmarks.gpu import __main__, running; import torch; [section.cases(torch.device('cpu'))[0].look() for section in map(running.SECTIONS.get, ('limits', 'speed', 'halving'))]", {"ray", "mlflow", "click", "yaml", "pandas", "pyarrow", "scipy", "platformdirs", "fsspec", "safetensors", "psutil", "rich", "pytest"}),
    ],
)  # fmt: skip
def test_what_starts_fast_imports_nothing_heavy(statement, light):
    code = f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\nprint('loaded', *(m for m in {sorted(light)} if m in sys.modules))"
    done = run([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["loaded"]
