"""What is said of a worker's end: enough to know whose it was and why, and nothing of other processes."""

from __future__ import annotations

from ray.exceptions import OutOfMemoryError, RaySystemError

from orchestrator.cluster.actors import SAID, cause_of, words_of
from orchestrator.execution.events import Cause

RAN_OUT = """Memory on the node (IP: 10.0.0.5, ID: 4c1e) was 30.5GB used / 32.0GB limit (0.953125)
OOM kill reason: Memory usage 32749125632B exceeded threshold of 32641751449B (95.0% of 34359738368B limit)
Object store memory usage: [- objects spillable: 0
- bytes spillable: 0]
Ray killed 1 worker(s) based on the killing policy
Considered workers: [
(Worker's Lease ID: 01, Granted time: 2026-11-26, Retriable: false, Memory used: 20.1 GiB, python train.py --password hunter2)
]
To see more information about memory usage on this node, use `ray logs raylet.out -ip 10.0.0.5`
Top 10 memory users: PID	MEM(GB)	COMMAND
4711	20.12	ray::RemoteWorker
4712	1.12	mysql --password=hunter2 db
4713	0.91	orchestrate submit grid.yaml --tracking-uri http://me:hunter2@host
"""


def test_of_memory_that_ran_out_the_command_lines_of_others_are_left_out():
    error = OutOfMemoryError(RAN_OUT)
    said = words_of(error)
    assert cause_of(error) is Cause.MEMORY
    assert said.startswith("OutOfMemoryError: Memory on the node (IP: 10.0.0.5, ID: 4c1e) was 30.5GB used / 32.0GB limit")
    assert "Ray killed 1 worker(s)" in said
    assert "hunter2" not in said
    assert "4711" not in said
    assert len(said.splitlines()) == 5


def test_long_words_keep_their_beginning_and_their_end_and_no_passwords():
    lines = ["The actor died", *(f"  File {n}" for n in range(50)), "OSError: cannot reach http://me:hunter2@host"]
    said = words_of(RaySystemError("\n".join(lines))).splitlines()
    assert len(said) == SAID
    assert "The actor died" in "\n".join(said[:3])
    assert said[-1] == "OSError: cannot reach http://me:***@host"
    assert words_of(ValueError()) == "ValueError: "
    assert words_of(ValueError("no file d\udce9v\0")) == r"ValueError: no file d\udce9v\0"
