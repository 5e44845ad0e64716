"""Grids that programs make: plain data in place of a file, read as the same file would be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml

from orchestrator.errors import GridError
from orchestrator.grid.load import Grid, parse_grid
from orchestrator.grid.source import MAX_DEPTH, Path, parse, resolve

NAME = "grid"
"""What messages call such a grid."""


def plain_grid(data: Mapping[str, Any], overrides: Sequence[str] = ()) -> Grid:
    """Load a grid from data as a file has it; ``overrides`` are ``key=value`` texts. Data files are looked for in the working folder.

    Tuples, ranges, NumPy's arrays and numbers, and paths stand for what a file would have. Raises `GridError` as for the same file, whose
    lines begin with what is wrong in ``data``: ``grid['fixed']['stop']``.
    """
    # Below a first line of its own, what is wrong with the whole is told from what is wrong with the first key.
    text = "# Submitted from Python.\n" + grid_text(data)
    try:
        return parse_grid(text, NAME, overrides=overrides)
    except GridError as error:
        raise GridError([_placed(mistake, text) for mistake in error.mistakes]) from None


def grid_text(data: Mapping[str, Any]) -> str:
    """Return data as the text of the grid file that it would be. Raises `GridError` for what is no plain data."""
    return _written(_plain(data, ()))


def written(value: Any) -> str:
    """Return a value as the text of an override has it. Raises `GridError` for what is no plain data."""
    return _written(_plain(value, ()), flow=True).removesuffix("...\n").strip()


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes texts so that they stay texts where this language, unlike PyYAML, takes them for numbers."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: Any, value: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if resolve(value) == value else '"')


_Dumper.add_representer(str, _text)


def _written(value: Any, *, flow: bool = False) -> str:
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=1 << 30)
    return text


def _plain(value: Any, path: Path) -> Any:
    """Return data as YAML has it. Raises `GridError` for what it has no word for."""
    if len(path) > MAX_DEPTH:
        raise GridError([f"{_subscript(path[:3])}...: is nested more than {MAX_DEPTH} levels deep"])
    if value is None or isinstance(value, bool | int | float | str):
        # Also what is derived from them, such as float64 of NumPy.
        return next((kind(value) for kind in (bool, int, float, str) if isinstance(value, kind)), None)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise GridError([f"{_subscript(path)}: a key must be text, not {key!r}"])
        return {str(key): _plain(inner, (*path, key)) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_plain(inner, (*path, place)) for place, inner in enumerate(value)]
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), path)
    raise GridError([f"{_subscript(path)}: must be plain data, not {type(value).__name__}"])


def _placed(mistake: str, text: str) -> str:
    """Return a mistake with the place in the data for that in the text, which nobody has seen."""
    found = re.match(rf"{NAME}:(\d+):(\d+): ", mistake)
    if found is None:
        return mistake
    try:
        marks = parse(text, NAME).marks
    except GridError:
        marks = {}
    # An item of a list and its first key are in one place: the key says more.
    at = {place: path for path, place in marks.items()}
    return f"{_subscript(at.get((int(found[1]), int(found[2])), ()))}: {mistake[found.end() :]}"


def _subscript(path: Path) -> str:
    return NAME + "".join(f"[{part!r}]" for part in path)
