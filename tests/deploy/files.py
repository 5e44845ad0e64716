"""The files of a deployment, and the versions that they are held to."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OVERLAYS = ("cpu", "gpu", "sweep-cpu", "sweep-gpu")


def constraint(name: str) -> str:
    """The version of a package in constraints.txt."""
    lines = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    return lines[name]


def project() -> dict[str, object]:
    """What pyproject.toml says of the project."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def texts() -> dict[str, str]:
    """Every file of deploy/ that git would take, by its path: what is generated holds passwords."""
    made = {"secrets", "__pycache__"}
    paths = (p for p in sorted(DEPLOY.rglob("*")) if p.is_file() and not made & set(p.relative_to(DEPLOY).parts))
    return {str(p.relative_to(ROOT)): p.read_text() for p in paths if p.name != "grid.yaml"}
