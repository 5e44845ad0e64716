"""Users' own kinds and measures, as commands and workers come by them: what is wrong with such code is an error of a line."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CodeError
from workloads.extensions import IMPORT_SECONDS, Extension, ExtensionError, activate, read_extension

if TYPE_CHECKING:
    from orchestrator.planning.pack import Pack


@contextmanager
def told() -> Iterator[None]:
    """Turn what is wrong with users' code into a `CodeError`."""
    try:
        yield
    except ExtensionError as error:
        raise CodeError(str(error)) from error


def use(given: Sequence[str], seconds: float = IMPORT_SECONDS) -> None:
    """Have the kinds and measures of the files and modules that are ``given``, and no others, beside the built-in ones.

    Each may take so many ``seconds`` to import. Raises `CodeError` for one that is not there, or that something is wrong with.
    """
    with told():
        activate([read_extension(one) for one in given], seconds)


@dataclass(frozen=True)
class Carried:
    """A pack of trials of users' kinds on its way to a process that may not know these: nobody can unpickle it before they are loaded.

    Their code may take so many ``seconds`` to import.
    """

    extensions: tuple[Extension, ...]
    content: bytes
    seconds: float = IMPORT_SECONDS

    def opened(self) -> Any:
        """Load the code and return the pack. Raises `CodeError`."""
        with told():
            activate(self.extensions, self.seconds)
        # From the driver, as Ray unpickles whatever else comes from it.
        return pickle.loads(self.content)  # noqa: S301


def carried(pack: Pack, extensions: tuple[Extension, ...]) -> Pack | Carried:
    """Return a pack as it travels to workers, with the code that its trials and what is recorded of them need."""
    return Carried(extensions, pickle.dumps(pack)) if extensions else pack
