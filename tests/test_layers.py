"""cli → orchestrator → workloads → torch, never upward, and every heavy library in its one home: read off the imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
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
    "fsspec": "orchestrator/storage/",
}
"""Where a library may be imported, besides what is listed in `EXCEPTIONS`."""
EXCEPTIONS = {
    ("torch", "orchestrator/execution/worker.py"),  # sets threads and the device
    ("torch", "orchestrator/cli/commands/doctor.py"),  # looks at GPUs
}


def imports(source: str) -> Iterator[str]:
    """All modules that a source imports, also inside functions and for type checking only."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            yield node.module


def violations(path: str, source: str) -> list[str]:
    found = []
    for module in imports(source):
        top = module.partition(".")[0]
        if top in HOMES and not path.startswith(HOMES[top]) and (top, path) not in EXCEPTIONS:
            found.append(f"{path} imports {module}, whose home is {HOMES[top]}")
        if path.startswith("workloads/") and top == "orchestrator":
            found.append(f"{path} imports {module}: workloads knows nothing of the orchestrator")
        if path.startswith("orchestrator/") and not path.startswith("orchestrator/cli/") and module.startswith("orchestrator.cli"):
            found.append(f"{path} imports {module}: the command line is the top layer")
    return found


SOURCES = [p for folder in ("orchestrator", "workloads") for p in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path):
    assert violations(str(path.relative_to(ROOT)), path.read_text()) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("workloads/training/loop.py", "def f():\n    import ray"),
        ("workloads/trial.py", "from orchestrator.errors import GridError"),
        ("orchestrator/sweeps/submit.py", "from mlflow.tracking import MlflowClient"),
        ("orchestrator/planning/plan.py", "import torch.nn"),
        ("orchestrator/grid/load.py", "from orchestrator.cli.options import x"),
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
    ],
)  # fmt: skip
def test_what_starts_fast_imports_nothing_heavy(statement, light):
    code = f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\nprint('loaded', *(m for m in {sorted(light)} if m in sys.modules))"
    done = run([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["loaded"]
