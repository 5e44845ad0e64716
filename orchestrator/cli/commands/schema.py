"""``orchestrate schema``."""

from __future__ import annotations

import click

from orchestrator.cli.options import with_option


@click.command("schema")
@with_option
def command(modules: tuple[str, ...]) -> None:
    """Print the JSON Schema of grid files, for editors.

    \b
    Example:
      orchestrate schema > grid.schema.json
    and, as the first line of a grid file:
      # yaml-language-server: $schema=grid.schema.json
    """
    from orchestrator.extensions import use
    from orchestrator.grid.schema import json_schema
    from orchestrator.grid.schema_parts import as_text

    use(modules)
    click.echo(as_text(json_schema()))
