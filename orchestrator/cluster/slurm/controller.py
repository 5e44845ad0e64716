"""What Slurm's controller is asked for, by Slurm's own commands."""

from __future__ import annotations

import re
import shutil
import subprocess

from orchestrator.errors import SlurmUnavailable, UsageError, one_line

ANSWER_SECONDS = 120.0
"""How long a controller may take to answer: one that is busy lets its commands wait."""
NOT_HERE = ": run this on a login node of a Slurm cluster, or look at the script with --dry-run"
UNREACHABLE = re.compile(r"contact|connect|timed out|zero bytes|munge", re.IGNORECASE)
"""What sbatch says of a controller that it cannot talk to. All else is its opinion of the job."""


def hand_in(script: str) -> str:
    """Hand in a batch script and return the number of its job. Raises `UsageError` if Slurm refuses it, `SlurmUnavailable` if it cannot."""
    done = _ask("sbatch", "--parsable", script=script)
    if done.returncode:
        said = _said(done)
        if UNREACHABLE.search(said):
            raise SlurmUnavailable(f"Slurm cannot be reached: {said}")
        raise UsageError(f"Slurm does not take the job: {said}")
    # With several clusters there is a name behind it.
    return done.stdout.strip().partition(";")[0]


def requeue(job: str) -> None:
    """Put a job that runs back into the queue. Raises `SlurmUnavailable` if Slurm does not."""
    done = _ask("scontrol", "requeue", job)
    if done.returncode:
        raise SlurmUnavailable(f"Slurm does not put the job back into the queue: {_said(done)}")


def state(job: str) -> str:
    """Return the state of a job in Slurm's words, such as ``RUNNING``; empty if Slurm does not say."""
    try:
        return _ask("squeue", "--noheader", "--format=%T", f"--jobs={job}").stdout.strip()
    except SlurmUnavailable:
        return ""


def _ask(program: str, *arguments: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    path = shutil.which(program)
    if path is None:
        raise SlurmUnavailable(f"there is no {program} here{NOT_HERE if script else ''}")
    command = [path, *arguments]
    try:
        return subprocess.run(command, input=script, capture_output=True, check=False, text=True, errors="replace", timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise SlurmUnavailable(f"{program} has not answered for {ANSWER_SECONDS:g} s: `squeue --me` says what there is") from error


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return one_line("; ".join(line.strip() for line in done.stderr.splitlines() if line.strip()) or f"exit code {done.returncode}")
