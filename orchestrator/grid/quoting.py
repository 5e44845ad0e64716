"""How messages quote what was written, and guess what was meant."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable


def shown(value: object) -> str:
    """Return a value as a message quotes it: as YAML would write it, and short."""
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else _SHORT.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_SHORT = reprlib.Repr()
"""Looks no further into a value than a message can show: aliases make huge ones of a few lines."""
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict = 40, 60, 60, 60
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 400


def nearest(name: object, known: Iterable[str]) -> str:
    """``; did you mean X?``, or else the list of what is known."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, 1, 0.65) if isinstance(name, str) else []
    return f"; did you mean {close[0]}?" if close else f": known are {', '.join(known)}"


def unquoted(name: str) -> str:
    """`` (text is in quotes: 'X')``, where a name that is no column may be text; else nothing."""
    return f" (text is in quotes: '{name}')" if name.isidentifier() else ""
