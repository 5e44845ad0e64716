"""``orchestrate check``."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import set_option


@click.command("check")
@click.argument("modules", nargs=-1, required=True, metavar="FILE...")
@click.option("--grid", type=click.Path(path_type=Path), help="Try the kinds with the keys and shapes of this grid [default: guessed].")
@set_option
@click.option(
    "--deadline",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long importing, or one call of a method, may take.",
)
def command(modules: tuple[str, ...], grid: Path | None, overrides: tuple[str, ...], deadline: float) -> None:
    """Try the kinds and measures in FILE, as --with takes it: shapes, gradients against finite differences, whether runs are independent
    of each other, speed, and what keeps them from the fused engine. Creates nothing.

    \b
    Example:
      orchestrate check configs/own/models.py
      orchestrate check configs/own/models.py --grid configs/own/grid.yaml

    Exits with 0 if all is well, and with 2 if something has to be mended: a line for each, with its place in the file.
    """
    from orchestrator.errors import CodeError
    from orchestrator.extensions import use
    from orchestrator.grid import load_grid
    from workloads.extensions.checking import check

    use(modules, deadline)
    specs = [] if grid is None else list({t.spec.sections: t.spec for t in load_grid(grid, overrides).trials}.values())
    wrong = 0
    for finding in check(specs, deadline):
        wrong += finding.wrong
        click.echo(f"error: {finding.text}" if finding.wrong else finding.text, err=finding.wrong)
    raise click.exceptions.Exit(CodeError.exit_code if wrong else 0)
