"""A malformed grid as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Malformed:
    """A grid file, overrides to load it with, and what was done to it."""

    path: Path
    overrides: tuple[str, ...]
    what: str


def dump(data: Any) -> str:
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6))


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):
    def ignore_aliases(self, _: Any) -> bool:
        return True


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "g.yaml"
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return path
