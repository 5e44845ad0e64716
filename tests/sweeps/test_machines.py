"""Two machines, as far as one can be two, submit one grid to one server: each trial has one finished run, whoever is killed when."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from subprocess import Popen

import pytest

from orchestrator.tracking import layout
from orchestrator.tracking.read import queries
from orchestrator.tracking.read.runs import search, tag_is
from orchestrator.tracking.store import open_store
from tests.processes import communicate, eventually, popen

pytestmark = [pytest.mark.ray, pytest.mark.server]

MACHINE = """
import socket, sys
from functools import partial
from orchestrator import liveness
from orchestrator.cli.main import main
from orchestrator.tracking import turns
from orchestrator.tracking.lease import Terms
name = sys.argv.pop(1)
liveness.machine = socket.gethostname = lambda: name
turns.experiment_turn = partial(turns.experiment_turn, terms=Terms(beat=0.5, length=8, look=0.1))
main()
"""
GRID = """
name: {name}
fixed:
  problem: {{kind: matrix_completion, shape: [2, 2], entries: [[0, 1, 1.0], [1, 1, 0.5]]}}
  factorization: {{kind: deep_matrix, depth: 2}}
  init: {{kind: gaussian, scale: 1e-3}}
  optimizer: {{kind: gd, lr: 1e-6}}
cases:
  - stop: {{steps: 100}}
  - {{stop: {{steps: 60_000}}, dtype: float32}}
seeds: 2
record: {{points: 10, measures: [nuclear]}}
resources: {{engine: batched}}
"""


class Machine:
    """A machine with a name, a user and a state of its own, which knows the server by a name of its own."""

    def __init__(self, name: str, folder: Path, uri: str, address: str) -> None:
        self._name, self._folder, self._uri, self._address = name, folder / name, uri, address
        self._folder.mkdir()

    def submit(self, grid: str) -> Popen[str]:
        (self._folder / "grid.yaml").write_text(grid)
        command = [sys.executable, "-c", MACHINE, self._name, "submit", "grid.yaml", "--json", "--workers", "1", "--checkpoint-every", "1"]
        log = (self._folder / "log").open("w")
        environment = {**os.environ, "XDG_STATE_HOME": str(self._folder / "state"), "MLFLOW_TRACKING_URI": self._uri}
        # What is killed leaves its temporary files.
        environment["TMPDIR"] = str(self._folder)
        return popen([*command, "--address", self._address], cwd=self._folder, env=environment, stdout=-1, stderr=log)

    @property
    def said(self) -> str:
        return (self._folder / "log").read_text()


@pytest.fixture
def machines(server: str, cluster_address: str, tmp_path: Path) -> tuple[Machine, Machine]:
    other = server.replace("127.0.0.1", "localhost")
    return Machine("one", tmp_path, server, cluster_address), Machine("two", tmp_path, other, cluster_address)


def finished(server: str, experiment: str) -> Counter[str]:
    """How many finished runs each trial has."""
    store = open_store(server)
    found = store.client.get_experiment_by_name(experiment)
    if found is None:
        return Counter()
    runs = search(store, [found.experiment_id], f"attributes.status = 'FINISHED' AND {tag_is(layout.KIND, layout.TRIAL)}")
    return Counter(run.data.tags[layout.TRIAL_ID] for run in runs)


def test_two_machines_at_once(machines: tuple[Machine, Machine], server: str, experiment: str) -> None:
    processes = [machine.submit(GRID.format(name=experiment)) for machine in machines]
    answers = [communicate(process)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], [machine.said for machine in machines]
    assert sorted(json.loads(answer.splitlines()[-1])["reused"] for answer in answers) == [0, 4]
    assert list(finished(server, experiment).values()) == [1] * 4


@pytest.mark.slow
def test_a_machine_that_is_lost_is_stood_in_for_by_the_next(machines: tuple[Machine, Machine], server: str, experiment: str) -> None:
    one, two = machines
    lost = one.submit(GRID.format(name=experiment))
    eventually(lambda: finished(server, experiment) or lost.poll() is not None, lambda: one.said)
    next_one = two.submit(GRID.format(name=experiment))
    eventually(lambda: "another process, on one, is submitting" in two.said or next_one.poll() is not None, lambda: two.said)
    lost.kill()
    communicate(lost)
    answer, _ = communicate(next_one)
    assert next_one.returncode == 0, two.said
    assert json.loads(answer.splitlines()[-1])["trials"] == 4
    assert list(finished(server, experiment).values()) == [1] * 4
    store = open_store(server)
    assert all(sweep.status == "FINISHED" for sweep in queries.list_sweeps(store, experiment))
    tags = store.client.get_experiment_by_name(experiment).tags
    assert not [tag for tag in tags if tag.startswith(layout.LEASE)]
