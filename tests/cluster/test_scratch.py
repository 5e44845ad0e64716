"""Temporary folders go with their process, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from orchestrator.cluster.scratch import remove_abandoned, scratch_folder
from tests.processes import communicate, popen

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from orchestrator.cluster.scratch import scratch_folder

with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "file").write_text("x")
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def hold(base):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = popen([sys.executable, "-c", HOLD, str(base)], cwd=ROOT, **pipes)
    return process, process.stdout.readline().strip()


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_it_is_there_until_its_process_ends(tmp_path):
    process, name = hold(tmp_path)
    assert (tmp_path / name / "file").exists()
    communicate(process)
    assert names(tmp_path) == set()


def test_that_of_a_killed_process_goes_with_the_next_and_that_of_a_live_one_stays(tmp_path):
    (dead, gone), (alive, kept) = hold(tmp_path), hold(tmp_path)
    dead.send_signal(signal.SIGKILL)
    communicate(dead)
    assert names(tmp_path) == {gone, kept}
    # What only looks like one is nobody's to remove.
    (tmp_path / "orchestrate-notes").mkdir()
    with scratch_folder(tmp_path) as mine:
        assert names(tmp_path) == {mine.name, kept, "orchestrate-notes"}
    remove_abandoned(tmp_path)
    assert names(tmp_path) == {kept, "orchestrate-notes"}
    communicate(alive)
