"""What the docstrings of models and of their fields say."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise

from workloads.section import Section


@cache
def field_words(model: type[Section]) -> Mapping[str, str]:
    """Return what the docstrings below the fields of a model say."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, Section) and base is not Section:
            found |= _own_words(base)
    return {name: text for name, text in found.items() if name in model.model_fields}


@cache
def _own_words(model: type[Section]) -> Mapping[str, str]:
    """Return what stands below the fields of this class itself: many models have the same bases, whose source takes long to be found."""
    found: dict[str, str] = {}
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0].body  # type: ignore[attr-defined]
    for field, below in pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                found[name] = plain(text)
    return found


def summary(model: type[Section]) -> str:
    """Return what the docstring of a model says."""
    return plain(model.__doc__ or "")


def plain(text: str) -> str:
    """Return a docstring as a line."""
    return " ".join(text.split()).replace("``", "`")
