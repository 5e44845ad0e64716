"""Which commit a file belongs to, as far as Git says so at once."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SECONDS = 1.0
"""How long an answer may take: nobody is to wait for it."""
_QUIET = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
"""What a repository from elsewhere could run by its configuration."""


@dataclass(frozen=True)
class Commit:
    """A commit, and whether the file, or anything else that Git tracks there, is not as it is in it; ``None`` if that takes too long."""

    name: str
    dirty: bool | None


def commit_of(path: Path, seconds: float | None = None) -> Commit | None:
    """Return the commit that a file lies in; ``None`` if there is none, or no Git, or no answer in ``seconds``, by default `SECONDS`."""
    seconds = SECONDS if seconds is None else seconds
    name = _git(path.parent, seconds, "rev-parse", "--verify", "HEAD")
    if not name:
        return None
    tracked = _git(path.parent, seconds, "ls-files", "--", path.name)
    changed = _git(path.parent, seconds, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules")
    return Commit(name, None if tracked is None or changed is None else not tracked or bool(changed))


def _git(folder: Path, seconds: float, *arguments: str) -> str | None:
    # No lock of the index, which a commit under way would meet, no prompt, and nothing that looks at another repository than the folder's.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", *_QUIET, *arguments]
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=True
        )
        # Names of files may be of any encoding.
        return done.stdout.decode(errors="replace").strip()
    return None
