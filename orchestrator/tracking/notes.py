"""What MLflow's page shows as a sweep's description: a part that the program writes anew, between two comments, and what people write."""

from __future__ import annotations

from orchestrator.tracking import layout

BEGIN = "<!-- written by orchestrate, which replaces it -->"
END = "<!-- from here on it is yours -->"
"""Comments of Markdown, which pages do not show. People see them when they edit the description there, which they may."""


def own_note(description: str) -> str:
    """Return what people have written of a description, above and below the other part."""
    return _parts(description)[1]


def with_note(description: str, note: str) -> str:
    """Return a description in which people's part is ``note``."""
    return _joined(_parts(description)[0], note)


def with_summary(description: str, summary: str) -> str:
    """Return a description in which the program's part is ``summary``."""
    return _joined(summary, own_note(description))


def _parts(description: str) -> tuple[str, str]:
    """Return the program's part and people's. Where one of the comments is gone, all of it counts as people's."""
    above, begun, rest = description.partition(BEGIN)
    summary, ended, below = rest.partition(END)
    if not begun or not ended:
        return "", description
    return summary.strip("\n"), "\n\n".join(text for text in (above.strip("\n"), below.strip("\n")) if text)


def _joined(summary: str, note: str) -> str:
    """Return a description that MLflow takes: what people wrote is all there, and of the summary the lines that there is room for."""
    lines = summary.splitlines()
    while lines:
        made = "\n".join([BEGIN, "", *lines, "", END, *(["", note] if note else [])])
        if len(made) <= layout.TAG_LENGTH:
            return made
        lines.pop()
    return note
