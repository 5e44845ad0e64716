"""The error tree. Every error a user can cause has a class here, and every class an exit code.

OrchestratorError             exit code
├── GridError                 2   the grid file or a data file it names is wrong
├── UsageError                2   an argument is wrong, or names something that does not exist
│   └── BusyError                 another process is at it
├── CodeError                 2   kinds or measures of a user's own cannot be used
└── UnavailableError          3   something outside cannot be used
    ├── RayUnavailable            the Ray cluster
    ├── SlurmUnavailable          Slurm
    ├── TrackingUnavailable       the MLflow store
    ├── LeaseLost                 the experiment: another process has taken over
    └── StorageUnavailable        a folder or object store
"""

from __future__ import annotations

MAX_LINE = 1000
"""Characters of a message: keys and values that it quotes may be megabytes."""


class OrchestratorError(Exception):
    """Base of all errors that are the user's to mend; printed as text, never as a traceback."""

    exit_code = 2


class GridError(OrchestratorError):
    """A grid file is wrong. ``mistakes`` holds one line per mistake, ``file:line:column: key: what and how to mend it``."""

    def __init__(self, mistakes: list[str]) -> None:
        self.mistakes = [one_line(mistake) for mistake in mistakes]
        super().__init__("\n".join(self.mistakes))


def one_line(text: str) -> str:
    """``text`` as a line fit for a terminal: what a file from elsewhere says must neither move the cursor nor pass for another message."""
    if len(text) > MAX_LINE:
        text = f"{text[: MAX_LINE - 200]}...{text[-200:]}"
    return printable(text)


def printable(text: str) -> str:
    """``text`` with whatever is no character to be read, such as what moves a cursor, written out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """``text`` of several lines, such as a traceback, each as `printable` has it; tabs become spaces."""
    return "\n".join(printable(line.expandtabs()) for line in text.splitlines())


def storable(text: str) -> str:
    """``text`` as whatever keeps it takes it: databases have no place for a NUL, nor files for halves of surrogate pairs, as names of files
    may hold that were quoted."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")


class UsageError(OrchestratorError):
    """A command-line argument is wrong, or names a sweep or trial that does not exist."""


class CodeError(OrchestratorError):
    """Code that was given for kinds or measures cannot be used; one line, ``file:line: what``."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class BusyError(UsageError):
    """Another process, on the machine ``host``, writes to an experiment."""

    def __init__(self, host: str) -> None:
        self.host = host
        super().__init__(f"another process, on {host}, is writing to this experiment")


class UnavailableError(OrchestratorError):
    """Something outside the program cannot be used."""

    exit_code = 3


class RayUnavailable(UnavailableError):
    """The Ray cluster cannot be reached, or lacks the resources asked for."""


class SlurmUnavailable(UnavailableError):
    """There is no Slurm here, or it cannot be reached."""


class TrackingUnavailable(UnavailableError):
    """The MLflow store cannot be reached or written."""


class LeaseLost(UnavailableError):
    """Another process, on the machine ``host``, has taken over an experiment while this one was not heard of."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"while this process was not heard of for a minute, another one, on {host}, has taken over its experiment: "
            "submit again once that has ended"
        )


class StorageUnavailable(UnavailableError):
    """A folder or object store cannot be written."""
