"""Reads what a sweep was submitted with, from among its artifacts: the users' code and the grid's data files."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from orchestrator.tracking import layout
from orchestrator.tracking.store import Store, translated


def code_reader(store: Store, run_id: str) -> Callable[[str], bytes | None]:
    """Return what reads a file of the users' code that is among the artifacts of a sweep, by its name; ``None`` for one that is not."""
    with translated(store.display):
        artifacts = store.artifacts_of(run_id)

    def read(name: str) -> bytes | None:
        with translated(store.display):
            return artifacts.read(f"{layout.CODE_FOLDER}/{name}")

    return read


def data_digests(store: Store, run_id: str) -> dict[str, str] | None:
    """Return the digests of a grid's data files by their names there, where its sweep lists them; ``None`` where it does not."""
    with translated(store.display):
        listed = store.artifacts_of(run_id).read(layout.DATA_DIGESTS)
    return None if listed is None else json.loads(listed)


def data_files(store: Store, run_id: str) -> dict[str, Callable[[], bytes]]:
    """Return the data files of a grid that are among the artifacts of its sweep, each by the name that the grid has for it.

    There are some of a sweep that came from a file. One that is missing raises `ValueError` when it is read.
    """
    with translated(store.display):
        artifacts = store.artifacts_of(run_id)
        names = artifacts.read(layout.DATA_NAMES)

    def read(name: str, digest: str) -> bytes:
        with translated(store.display):
            content = artifacts.read(f"{layout.DATA_FOLDER}/{digest}")
        if content is None:
            raise ValueError(f"{name} is not among the sweep's artifacts any more")
        return content

    known: dict[str, str] = {} if names is None else json.loads(names)
    return {name: partial(read, name, digest) for name, digest in known.items()}
