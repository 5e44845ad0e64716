"""The guide to the grid language: its tables are those of the models."""

from __future__ import annotations

from orchestrator.grid.reference import PAGE, fill, tables


def test_the_guide_is_up_to_date():
    page = PAGE.read_text()
    assert page == fill(page), "run: python -m orchestrator.grid.reference"
    for name, table in tables().items():
        assert table in page, f"the guide has no table of {name}"
