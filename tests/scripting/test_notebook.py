"""The shipped notebook, run in a kernel as in Jupyter, and a sweep that is interrupted there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
from nbclient import NotebookClient

import orchestrator
from orchestrator.tracking.read.queries import find_sweep
from orchestrator.tracking.store import open_existing
from tests.processes import PATIENCE

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


@pytest.fixture
def work(tmp_path, template, cluster_address, monkeypatch):
    """A folder to run in, on the shared cluster; what Jupyter writes about itself goes beside it."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.setenv("RAY_ADDRESS", cluster_address)
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(template, work)
    return work


@pytest.mark.slow
def test_the_shipped_notebook_runs(work):
    notebook = nbformat.read(NOTEBOOK, 4)
    NotebookClient(notebook, timeout=int(PATIENCE), resources={"metadata": {"path": str(work)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = {cell.source: [output for output in cell.outputs if "data" in output] for cell in cells}
    (progress, sweep) = next(outputs for source, outputs in shown.items() if "submit(" in source)
    notes, last = progress["data"]["text/plain"].splitlines()
    assert notes.startswith("afternoon: 39 trials to run in ")
    assert last.startswith("39/39 trials")
    assert ": 39 trials (" in sweep["data"]["text/plain"]
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "stream"]
    for source, outputs in shown.items():
        if "figures" in source and "submit" not in source and "grid =" not in source:
            assert "vega" in outputs[-1]["data"]["text/html"]
    assert "holds" in shown[cells[-1].source][0]["data"]["text/plain"]


LONG = """
import orchestrator
orchestrator.submit({
    "name": "long",
    "fixed": {
        "problem": {"kind": "matrix_completion", "shape": [3, 3], "target": {"rank": 1}, "observed": 5},
        "factorization": {"kind": "deep_matrix", "depth": 2},
        "init": {"kind": "gaussian", "scale": 0.1},
        "optimizer": {"kind": "gd", "lr": 1e-9},
        "stop.steps": 1_000_000_000_000,
    },
    "seeds": 2,
}, workers=1)
"""


@pytest.fixture
def kernel(work) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    manager, client = start_new_kernel(cwd=str(work))
    try:
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_an_interrupt_saves_the_trials_and_leaves_the_kernel(work, kernel):
    manager, client = kernel
    sent = []

    def interrupt_in_training(message):
        data = message["content"].get("data", {})
        if "trial-steps/s" in data.get("text/plain", "") and not sent:
            sent.append(message)
            manager.interrupt_kernel()

    reply = client.execute_interactive(LONG, timeout=PATIENCE, output_hook=interrupt_in_training)["content"]
    assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
    assert reply["evalue"] == "interrupted with 2 trials to go: submit the same grid again to go on"
    after = client.execute_interactive("import ray; assert not ray.is_initialized()", timeout=PATIENCE, output_hook=lambda _: None)
    assert after["content"]["status"] == "ok"
    uri = f"sqlite:///{work}/mlflow.db"
    assert orchestrator.load_runs(tracking_uri=uri)["outcome"].tolist() == [None, None]
    assert find_sweep(open_existing(uri), "long").status == "KILLED"
