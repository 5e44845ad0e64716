"""Which process this is, whatever it is called."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.processes import run

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="names of processes that anybody may read")
def test_a_process_whose_name_is_cut_within_a_letter_is_there():
    # The kernel keeps 15 bytes of a name, and each of these letters has two.
    code = """
from pathlib import Path
Path("/proc/self/comm").write_text("обучение-модели")
from orchestrator import liveness
print(liveness.is_there(liveness.process()))
"""
    done = run([sys.executable, "-c", code], cwd=ROOT)
    assert (done.stdout, done.stderr) == ("True\n", "")
