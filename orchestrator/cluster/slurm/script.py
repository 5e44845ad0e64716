"""The batch script of a sweep. All that can go wrong is in Python: the script is one line of shell."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.errors import UsageError, one_line
from orchestrator.files import file_name

MARGIN = 180
"""Seconds before the time limit at which a sweep begins to save: half a minute for its workers, two for an MLflow that takes nothing, and
as much as Ray needs to end."""
EARLY = 60
"""Seconds by which Slurm may send a signal too early."""
REQUEUES = 100
"""How often a job that has come to its time limit is put back into the queue."""
OURS = {
    *("-N", "--nodes", "-t", "--time", "--gpus-per-node", "-n", "--ntasks", "--ntasks-per-node", "-a", "--array", "--wrap"),
    *("--signal", "--requeue", "--no-requeue", "-k", "--no-kill", "--open-mode", "--parsable"),
}
"""Options of sbatch that say how a sweep runs, or that are given in another way."""


@dataclass(frozen=True)
class Request:
    """What is asked of Slurm for a sweep called ``name``, in sbatch's words; ``further`` are options of sbatch as given on a command line.

    Raises `UsageError` for what Slurm would not take, or would take amiss.
    """

    name: str
    nodes: str
    time: str
    gpus_per_node: int = 0
    margin: int = MARGIN
    further: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)?", self.nodes):
            raise UsageError(f"--nodes is a number, or the least and the most as in 2-4, not {self.nodes!r}")
        if seconds_of(self.time) < self.margin + 2 * EARLY:
            raise UsageError(
                f"--time {self.time} leaves nothing to train in: a sweep is saved {self.margin} s before its limit, and Slurm may say so "
                f"{EARLY} s early; give more time, or a smaller --margin"
            )
        list(_options(self.further))


def seconds_of(time: str) -> int:
    """Return the seconds of a time limit as Slurm writes it. Raises `UsageError` for another form."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if not found:
        raise UsageError(f"--time is MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS or DAYS-HOURS[:MINUTES[:SECONDS]], not {time!r}")
    days, *rest = found.groups()
    numbers = [int(number) for number in rest if number is not None]
    units = (3600, 60, 1) if days is not None or len(numbers) == 3 else (60, 1)
    return 86400 * int(days or 0) + sum(number * unit for number, unit in zip(numbers, units, strict=False))


def script_of(request: Request, command: Sequence[str], requeues: int = REQUEUES) -> str:
    """Return the batch script that runs ``command`` beside a Ray on all nodes of an allocation, and takes it up again after a requeue."""
    options = [
        f"--job-name=orchestrate-{file_name(request.name)}",
        f"--nodes={request.nodes}",
        "--ntasks-per-node=1",
        *([f"--gpus-per-node={request.gpus_per_node}"] if request.gpus_per_node else []),
        f"--time={request.time}",
        # To the batch script alone: what trains has to go on until the sweep has saved it.
        f"--signal=B:USR1@{request.margin}",
        "--requeue",
        # The sweep goes on without a node that dies, and with what it has said before.
        "--no-kill",
        "--open-mode=append",
        *_options(request.further),
    ]
    runner = [sys.executable, "-m", "orchestrator.cluster.slurm.batch", str(requeues), *command]
    return "\n".join(["#!/bin/bash", *(f"#SBATCH {option}" for option in options), f"exec {shlex.join(runner)}", ""])


def _options(further: Sequence[str]) -> Iterator[str]:
    """Return options of sbatch, as words of a command line, as lines of a script. Raises `UsageError` for what is none, or is ours."""
    lines: list[list[str]] = []
    for word in further:
        if not word.isprintable():
            raise UsageError(f"an option of sbatch is one line of printable characters, not {one_line(word)}")
        if word.startswith("-"):
            lines.append([word])
        elif not lines:
            raise UsageError(f"what follows -- are options of sbatch, such as --qos=high, not {word!r}")
        else:
            lines[-1].append(word)
    for line in lines:
        name = line[0].partition("=")[0] if line[0].startswith("--") else line[0][:2]
        if name in OURS:
            raise UsageError(f"{name} cannot be given after --: `orchestrate slurm` sets it itself, see its --help")
        yield shlex.join(line)
