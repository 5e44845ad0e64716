"""The house in order: nothing grows beyond what a reader holds in mind, and every package says what it is for."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [p for folder in ("orchestrator", "workloads", "benchmarks") for p in sorted((ROOT / folder).rglob("*.py"))]
LINES, ATTRIBUTES, LONGEST = 350, 12, 50
"""At most: lines of a module, attributes of a class, lines of a function. (Branches are ruff's to count.)"""


def attributes(tree: ast.ClassDef) -> set[str]:
    """What instances of a class hold: fields, and whatever methods set."""
    fields = {
        node.target.id
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and "ClassVar" not in ast.unparse(node.annotation)
    }
    stores = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    return fields | {node.attr for node in stores if isinstance(node.value, ast.Name) and node.value.id == "self"}


def overgrown(source: str) -> list[str]:
    tree, found = ast.parse(source), []
    if (lines := source.count("\n")) > LINES:
        found.append(f"{lines} lines")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and (lines := node.end_lineno - node.lineno + 1) > LONGEST:
            found.append(f"{node.name} has {lines} lines")
        if (
            isinstance(node, ast.ClassDef)
            and not MODELS & {ast.unparse(base) for base in node.bases}
            and len(attributes(node)) > ATTRIBUTES
        ):
            found.append(f"{node.name} has {len(attributes(node))} attributes")
    return found


MODELS = {"Section", "Question", "Figure", "Claim"}
"""Keys of a grid file are as many as its users need."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_has_outgrown_its_name(path):
    assert overgrown(path.read_text()) == []


def test_the_check_itself_finds_what_has_grown():
    assert overgrown("x = 1\n" * 351)
    assert overgrown("def f():\n" + "    x = 1\n" * 50)
    assert overgrown("class A:\n    def f(self):\n" + "".join(f"        self.a{n} = {n}\n" for n in range(13)))
    assert not overgrown("class A:\n    x: int\n")


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name == "__init__.py"], ids=lambda p: str(p.parent.relative_to(ROOT)))
def test_every_package_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_types_are_there_for_users():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    for package in settings["mypy"]["packages"]:
        assert (ROOT / package / "py.typed").exists()
        assert "py.typed" in settings["setuptools"]["package-data"][package]
