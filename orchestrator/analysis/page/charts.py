"""The figures of a page: charts that its reader can use, pictures of those that are too large for that, and tables of their numbers."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.analysis.figures import TABLES, draw, spec_of
from orchestrator.analysis.rendering import rendered
from orchestrator.analysis.report import noting
from orchestrator.analysis.typesetting import plain_cell

if TYPE_CHECKING:
    from orchestrator.analysis.results import Results
    from orchestrator.grid.figures import Figure

CHARTS_BYTES = 3 << 20
"""What the charts of a page may have in it all together; those beyond it are pictures."""
DIGITS = 6


@dataclass(frozen=True)
class Drawn:
    """A figure: JSON of Vega-Lite or a PNG in base 64, or in words why there is neither; and, if it has some, its numbers."""

    name: str
    spec: str = ""
    picture: str = ""
    undrawn: str = ""
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def drawn(figures: Mapping[str, Figure], results: Results, tell: Callable[[str], None]) -> list[Drawn]:
    """Return the figures in the order of the grid. ``tell`` is called before each."""
    made, room = [], CHARTS_BYTES
    for name, figure in figures.items():
        tell(f"drawing {name}")
        undrawn: dict[str, str] = {}
        spec, picture = "", ""
        header: tuple[str, ...] = ()
        rows: tuple[tuple[str, ...], ...] = ()
        with noting(name, undrawn):
            spec = spec_of(draw(figure, results))
            header, rows = _numbers(figure, results)
            if len(spec) > room:
                picture = base64.b64encode(rendered(spec, ["png"])["png"]).decode()
                spec = ""
        room -= len(spec)
        made.append(Drawn(name, spec, picture, undrawn.get(name, ""), header, rows))
    return made


def _numbers(figure: Figure, results: Results) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return the header and the rows of the table that belongs to a figure; nothing if its kind has none."""
    if figure.kind not in TABLES:
        return (), ()
    frame = TABLES[figure.kind](figure, results, results.chosen(figure.where)).rows.convert_dtypes()
    cells = frame.astype(object).itertuples(index=False)
    return tuple(map(str, frame.columns)), tuple(tuple(plain_cell(value, DIGITS) for value in row) for row in cells)
