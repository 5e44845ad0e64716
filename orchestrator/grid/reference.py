"""The tables of ``docs/grid.md``, from the models that check grid files. ``python -m orchestrator.grid.reference`` rewrites them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.grid import guide
from orchestrator.grid.claims import CLAIMS, Claim
from orchestrator.grid.docstrings import summary
from orchestrator.grid.figures import FIGURES, Figure
from orchestrator.grid.model import Record, Resources, Tracking
from orchestrator.grid.sections import KINDED
from workloads import measures
from workloads.section import Section
from workloads.stop import Stop

PAGE = Path(__file__).parents[2] / "docs" / "grid.md"
BEGIN, END = "<!-- generated: {} -->", "<!-- end -->"


def tables() -> dict[str, str]:
    """Every generated part of the page by its name."""
    parts = {part: "\n".join(_kinds(part, kinds, kinds.base)).rstrip() for part, kinds in KINDED.items()}
    parts["stop"] = "\n".join(_table(guide.fields(Stop)))
    parts["record"] = "\n".join(_table(guide.fields(Record)))
    parts["tracking"] = "\n".join(_table(guide.fields(Tracking)))
    parts["resources"] = "\n".join(_table(guide.fields(Resources)))
    parts["figures"] = "\n".join(_kinds("NAME", FIGURES, Figure)).rstrip()
    parts["claims"] = "\n".join(_kinds("NAME", CLAIMS, Claim)).rstrip()
    rows = [f"| `{m.shown}` | {_cell(m.summary)} |" for m in measures.MEASURES]
    parts["measures"] = "\n".join(["| name | what it is |", "|---|---|", *rows])
    return parts


def fill(page: str) -> str:
    """``page`` with its generated parts made anew. Raises `KeyError` for a part that does not exist."""
    parts = tables()

    def replace(found: re.Match[str]) -> str:
        return f"{BEGIN.format(found[1])}\n{parts[found[1]]}\n{END}"

    return re.sub(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", replace, page, flags=re.DOTALL)


def _kinds(part: str, kinds: Mapping[str, Any], base: type[Section]) -> Iterator[str]:
    """Yield the keys that all kinds take, their ``base``'s, then for each kind what it is, an example, and its own keys."""
    if shared := guide.fields(base):
        yield f"{_cell(summary(base))} All kinds take:"
        yield ""
        yield from _table(shared)
        yield ""
    for kind, model in kinds.items():
        yield f"**`{kind}`**: {_cell(summary(model))}"
        yield ""
        yield from ("```yaml", f"{part}: {model.example}", "```")
        yield ""
        if own := guide.fields(model, base):
            yield from _table(own)
            yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(fields: Sequence[guide.Field]) -> Iterator[str]:
    yield "| key | what it is | value | default |"
    yield "|---|---|---|---|"
    for field in fields:
        yield f"| `{field.name}` | {_cell(field.words)} | {field.values} | {field.default} |"


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text()))
