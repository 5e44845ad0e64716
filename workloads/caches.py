"""What is found out once on a machine, and kept in the user's cache folder as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def cache_file(name: str) -> Path:
    """Return where a file of the program is kept: ``orchestrate/NAME`` in the user's cache folder."""
    from platformdirs import user_cache_path

    return user_cache_path("orchestrate") / name


def read_cache(path: Path) -> dict[str, Any]:
    """Return what is kept, by name; nothing where that cannot be read, or is something else."""
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def write_cache(path: Path, kept: Mapping[str, Any]) -> None:
    """Keep what is ``kept``, and nothing else. Raises `OSError` where that cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Replaced whole: several processes may write at once, and a reader must never see half a file.
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(json.dumps(kept))
    part.replace(path)
