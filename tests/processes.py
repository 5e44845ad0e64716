"""Processes of tests: started with signals as a terminal would have them, waited for by conditions, found and ended by a mark.

Every process of a run of the tests has the environment variable `MARK`, which all that it starts inherits, however it detaches itself:
``<run>/<xdist worker>``. So what a test or a whole run has left behind can be told from everything else on the machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import psutil

MARK = "ORCHESTRATE_TESTS"
PATIENCE = 240.0
"""Seconds to wait for what must happen. Only a test that fails waits for as long: no machine is too slow for it."""


def own_mark() -> str:
    """The mark of the run of the tests that this process is of; empty if it is of none."""
    return os.environ.get(MARK, "").partition("/")[0]


def hear_signals() -> None:
    """Let the children of this process hear SIGINT, SIGHUP and SIGQUIT, also where it was started with them ignored (``nohup … &`` in a
    script).

    What is ignored stays so in all children, but a handler becomes the default in them. This process goes on ignoring them.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def popen(command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Start a command in a session, and so in a process group, of its own. Options are `subprocess.Popen`'s."""
    return subprocess.Popen(command, text=True, start_new_session=True, **options)


def run(command: Sequence[str], *, timeout: float = PATIENCE, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it said, whatever its exit status. After ``timeout`` seconds its whole group is ended."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with popen(command, **{**pipes, **options}) as process:
        out, errors = communicate(process, timeout)
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


def communicate(process: subprocess.Popen[str], timeout: float = PATIENCE) -> tuple[str, str]:
    """What a process says until it ends. Its whole group is ended if that takes longer than ``timeout`` seconds, or if we are ended."""
    try:
        return process.communicate(timeout=timeout)
    except BaseException as error:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if isinstance(error, subprocess.TimeoutExpired):
            out, errors = process.communicate()
            raise AssertionError(f"{process.args} goes on after {timeout:g} s:\n{out}\n{errors}") from error
        raise


def eventually(condition: Callable[[], Any], what: Callable[[], Any] | str = "", seconds: float = PATIENCE, every: float = 0.05) -> Any:
    """Wait until a condition holds and return its value; fails, with ``what`` there is instead, if it does not within ``seconds``."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, f"not within {seconds:g} s: {what() if callable(what) else what or condition}"
        time.sleep(every)
    return value


def marked(mark: str, since: float = 0.0) -> Iterator[psutil.Process]:
    """The processes, but for this one, whose mark begins with ``mark`` and that were started after ``since`` (`time.time`).

    Descendants of those belong to them: some programs write over their own environment.
    """
    seen = {os.getpid()}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK, "").startswith(mark):
                for one in (process, *process.children(recursive=True)):
                    # The system's start, from which processes count theirs, is known to a second.
                    if one.pid not in seen and one.create_time() >= since - 1:
                        seen.add(one.pid)
                        yield one


def end(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL to processes and to their groups, but for our own."""
    for process in processes:
        with suppress(psutil.Error, OSError):
            group = os.getpgid(process.pid)
            if group == os.getpgid(0):
                process.kill()
            else:
                os.killpg(group, signal.SIGKILL)
