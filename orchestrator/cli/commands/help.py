"""``orchestrate help``."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import with_option

if TYPE_CHECKING:
    from orchestrator.grid.guide import Topic

WIDEST = 110


@click.command("help")
@click.argument("word", required=False)
@with_option
@click.pass_context
def command(context: click.Context, word: str | None, modules: tuple[str, ...]) -> None:
    """Explain a key of a grid file, a kind, a measure or a command; without WORD, list what there is.

    \b
    Example:
      orchestrate help init
      orchestrate help stop.check_every
      orchestrate help schatten
      orchestrate help submit
    """
    from orchestrator.extensions import use
    from orchestrator.grid import guide
    from orchestrator.grid.model import TOP

    use(modules)
    if word is not None and (text := _of_command(context, word)) is not None:
        click.echo(text)
        if word not in TOP:
            return
        click.echo()
    if word is None:
        for where, names in guide.contents().items():
            click.echo(f"{where}:")
            click.echo(_filled(" · ".join(names), "  "))
        click.echo("\n`orchestrate help WORD` explains one, or a command; docs/grid.md has it all on a page.")
        return
    click.echo("\n\n".join(_shown(topic) for topic in guide.topics(word)))


def _of_command(context: click.Context, word: str) -> str | None:
    group = context.parent.command if context.parent is not None else None
    asked = group.get_command(context, word) if isinstance(group, click.Group) else None
    if asked is None:
        return None
    with click.Context(asked, info_name=word, parent=context.parent) as of:
        return asked.get_help(of)


def _filled(text: str, indent: str, hanging: str | None = None) -> str:
    width = min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)
    return textwrap.fill(
        text, max(width, 40), initial_indent=indent, subsequent_indent=indent if hanging is None else hanging,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _shown(topic: Topic) -> str:
    lines = [f"{topic.name}: {topic.head}", "", _filled(topic.words, "  ")]
    listed = [(field.name, f"{field.words} {_sentence(field.values, field.default)}") for field in topic.fields]
    for rows in (listed, list((topic.others or {}).items())):
        if rows:
            wide = max(len(name) for name, _ in rows)
            lines += ["", *(_filled(f"{name:{wide}}  {words}", "  ", " " * (wide + 4)) for name, words in rows)]
    return "\n".join([*lines, "", f"  {topic.example}"])


def _sentence(values: str, default: str) -> str:
    return f"({values}; {default if default == 'required' else f'default {default}'})"
