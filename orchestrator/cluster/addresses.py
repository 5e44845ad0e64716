"""Where Ray takes jobs, and which of those places this user has given: Ray's token goes to no other, whatever a tag in MLflow says."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import UsageError, one_line
from orchestrator.files import read_file, state_folder
from orchestrator.tracking.uris import redact

PORT = 8265
"""Where a cluster's head takes jobs, unless told otherwise."""
MAX_BYTES = 1 << 20
"""Of the file in which addresses are remembered."""


def is_job_address(address: str | None) -> bool:
    """Return whether jobs are sent to ``address``: ``http://head:8265``, or ``ray://head:10001``, which itself cannot carry a sweep."""
    return address is not None and address.startswith(("http://", "https://", "ray://"))


def job_server(address: str) -> str:
    """Return the address to which jobs are sent, written in one way."""
    if not address.startswith("ray://"):
        return address.rstrip("/")
    host = address.removeprefix("ray://").rpartition(":")[0] or address.removeprefix("ray://")
    return f"http://{host}:{PORT}"


def remember(address: str) -> None:
    """Take note that this user has sent a sweep to ``address``; where that cannot be written, the address has to be given again."""
    path = _file()
    with suppress(OSError):
        if job_server(address) not in _remembered():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(f"{job_server(address)}\n")


def is_known(address: str, given: str | None = None) -> bool:
    """Return whether this user has given an address: now, as ``given`` or ``RAY_ADDRESS``, or when a sweep was sent to it."""
    named = [job_server(one) for one in (given, os.environ.get("RAY_ADDRESS")) if is_job_address(one) and one is not None]
    return job_server(address) in (*named, *_remembered())


def check_known(address: str) -> None:
    """Raise `UsageError` unless `is_known`."""
    if not is_known(address):
        shown = one_line(redact(address))
        raise UsageError(
            f"MLflow says that the sweep runs as a job of {shown}, to which no sweep was sent from here: Ray's token goes there only with "
            f"--address {shown}"
        )


def _file() -> Path:
    return state_folder() / "addresses"


def _remembered() -> list[str]:
    try:
        return read_file(_file(), MAX_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return []
