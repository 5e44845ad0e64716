"""The command line. Each command is a module of its own, imported only when it is the one that was asked for or listed."""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import io
import os
import pkgutil
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import click

from orchestrator.cli import commands
from orchestrator.cli.client import delegated, end_like, run_here
from orchestrator.cli.options import INTERRUPTED
from orchestrator.cli.output import drop_unread
from orchestrator.deadline import within
from orchestrator.errors import CodeError, OrchestratorError, UnavailableError, printable

RARELY = 100_000
"""Objects made between two garbage collections. With Python's 700 they take a quarter of the time that imports take."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the operating system says of disks that are full."""
LEAVING_SECONDS = 5.0
"""How long what libraries do at the end of a process may take after an error or a signal."""
FIRST = (
    *("submit", "resume", "rerun", "cancel", "logs", "sync", "plan", "check", "slurm", "status", "list"),
    *("runs", "history", "factors", "measure", "figures", "verify", "report", "compare", "export", "import", "rename", "note", "rm"),
    *("ui", "schema", "help", "doctor", "up", "down"),
)
"""The order in which help lists commands. Those that are not here come last."""
COMMANDS = sorted((m.name for m in pkgutil.iter_modules(commands.__path__)), key=lambda name: (*FIRST, name).index(name))


class _Lazy(click.Group):
    """Finds a command in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{commands.__name__}.{cmd_name}")
        command: click.Command = module.command
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="orchestrate", prog_name="orchestrate")
def cli() -> None:
    """Run grids of matrix and tensor factorizations: thousands of runs as lanes of one batched program, on Ray, in MLflow.

    Start with `orchestrate submit configs/quickstart.yaml`, then `orchestrate runs latest` and `orchestrate ui`.

    Exit codes: 0 all trials have an outcome and none failed; 1 some failed, or a claim does not hold; 2 bad grid or usage; 3 Ray,
    MLflow or storage cannot be used; 130 interrupted (resume, or submit again, to go on).
    """


def main() -> NoReturn:
    """Entry point of ``orchestrate``."""
    if (status := delegated(sys.argv[1:])) is not None:
        end_like(status)
    leave(run_command(cli))


def forked() -> NoReturn:
    """Entry point of a process that was forked for a command."""
    run_here()
    # Written a line at a time, as by an interpreter that has just started.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=stream is sys.stderr or stream.isatty())  # type: ignore[union-attr]
    main()


def run_command(command: click.Command) -> int:
    """Run a command, turn every error that is the user's to mend into a line, and return the exit code."""
    _open_streams()
    signal.signal(signal.SIGTERM, _interrupt)
    gc.set_threshold(RARELY)
    try:
        code = command.main(prog_name="orchestrate", standalone_mode=False)
    except OrchestratorError as error:
        for line in str(error).splitlines():
            click.echo(f"error: {printable(line)}", err=True)
        code = error.exit_code
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo("interrupted: the same command again goes on", err=True)
        code = INTERRUPTED
    except (SystemExit, BrokenPipeError):
        # The reader, `head` say, has gone, of which Click makes an exit code: nothing is wrong.
        code = 0
    except OSError as error:
        if error.errno not in FULL:
            raise
        with suppress(OSError):
            click.echo(f"error: {error.strerror}{f': {error.filename}' if error.filename else ''}; make room, and go on", err=True)
        code = UnavailableError.exit_code
    except Exception as error:
        from workloads.extensions import explained

        # In a kind or measure of a user's own it is theirs to mend.
        if (place := explained(error)) is None:
            raise
        click.echo(f"error: {place}", err=True)
        code = CodeError.exit_code
    drop_unread()
    return code if isinstance(code, int) else 0


def leave(code: int) -> NoReturn:
    """End the process. After an error or a signal nobody waits for threads: one may wait for a server that never comes to an end."""
    # Looking for garbage among all that MLflow and Ray have made would take a second.
    gc.freeze()
    if code not in (UnavailableError.exit_code, INTERRUPTED):
        sys.exit(code)
    with suppress(TimeoutError):
        within(LEAVING_SECONDS, atexit._run_exitfuncs)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _open_streams() -> None:
    """Open what the process was started without (``>&-``), or what it opens next, a database say, would take the place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with suppress(OSError):
                os.fstat(number)
                continue
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "w" if number else "r"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal whose encoding lacks a sign has it written out, as Python does it on standard error. Not in a process that was forked
        # from one that wrote to a file: Python would look for the place in it.
        with suppress(OSError):
            sys.stdout.reconfigure(errors="backslashreplace")


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
