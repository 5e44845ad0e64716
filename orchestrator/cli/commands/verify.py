"""``orchestrate verify``."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import json_option, print_json, sweep_argument, tracking_option
from orchestrator.cli.verdicts import print_left_out, print_verdicts


@click.command("verify")
@sweep_argument
@click.option("--grid", "grid", type=click.Path(path_type=Path), help="Check the claims of this file instead of the sweep's own.")
@click.option("--claim", metavar="YAML", help="Check this claim alone, such as '{kind: within, of: error, range: [null, 1e-3]}'.")
@tracking_option
@json_option
def command(sweep: str, grid: Path | None, claim: str | None, tracking_uri: str | None, as_json: bool) -> None:
    """Check the claims of SWEEP's grid against its runs. Exits with 1 if one that is required does not hold, or
    cannot be judged because trials that it is about were deleted.

    SWEEP is an id, a unique prefix of one, an experiment's name (its newest sweep), or latest.

    \b
    Example:
      orchestrate verify figure1
      orchestrate verify figure1 --claim '{kind: keeps_sign, of: det}'
    """
    from orchestrator.analysis.report import folder_of, questions_of, report
    from orchestrator.errors import UsageError
    from orchestrator.grid.load import load_questions, parse_questions
    from orchestrator.tracking.read.queries import find_sweep
    from orchestrator.tracking.store import open_existing

    if grid is not None and claim is not None:
        raise click.UsageError("give --grid or --claim, not both")
    store = open_existing(tracking_uri)
    found = find_sweep(store, sweep)
    if claim is not None:
        claims = parse_questions(f"claims: {{claim: {claim}}}", "--claim")[1]
    else:
        claims = (load_questions(grid) if grid is not None else questions_of(store, found))[1]
    if not claims:
        raise UsageError(f"the grid of sweep {found.sweep_id} makes no claims: add a section claims to a grid file and give it as --grid")
    done = report(store, [found], {}, claims, folder_of([found]), log=claim is None)
    if as_json:
        print_json([verdict.as_json() for verdict in done.verdicts])
    else:
        print_verdicts(done.verdicts)
    print_left_out(done.pending, done.lost)
    raise click.exceptions.Exit(0 if done.sound else 1)
