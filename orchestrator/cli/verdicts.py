"""Verdicts and drawn figures as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.errors import one_line
from workloads.amounts import agreeing, amount

if TYPE_CHECKING:
    from orchestrator.analysis.claims import Verdict


def print_verdicts(verdicts: Sequence[Verdict], *, err: bool = False) -> None:
    """Two lines a claim: whether it holds and what was found, then the trial that speaks most against it."""
    for verdict in verdicts:
        word = verdict.word if verdict.holds or not verdict.required else verdict.word.upper()
        word = "does not hold" if word == "broken" else word
        click.echo(f"{word:>13}  {verdict.name}: {one_line(verdict.says or '')}", err=err)
        click.echo(f"{'':>13}  {one_line(verdict.found)} (rests on {amount(verdict.trials, 'trial')})", err=err)
        if verdict.worst is not None:
            step = f" at step {verdict.worst.step:,}" if verdict.worst.step is not None else ""
            nearest = "nearest to breaking it" if verdict.holds else "worst"
            run = f", run {verdict.worst.run_id}" if verdict.worst.run_id else ""
            click.echo(f"{'':>13}  {nearest}: {one_line(verdict.worst.shows)}{step}, trial {verdict.worst.trial_id}{run}", err=err)


def print_figures(files: Sequence[Path], undrawn: Mapping[str, str], *, err: bool = False) -> None:
    """Return a line a figure: where it is, and in which formats."""
    names: dict[Path, list[str]] = {}
    for path in files:
        names.setdefault(path.with_suffix(""), []).append(path.suffix[1:])
    for path, forms in names.items():
        others = f" (and {', '.join(forms[1:])})" if len(forms) > 1 else ""
        click.echo(f"drawn: {path}.{forms[0]}{others}", err=err)
    for name, reason in undrawn.items():
        click.echo(f"not drawn: {name}: {reason}", err=True)


def print_left_out(pending: int, lost: Iterable[str]) -> None:
    """Say that some trials are not in what was drawn or checked, because they have not ended or were deleted."""
    if pending:
        has, is_ = agreeing(pending, "has", "have"), agreeing(pending, "is", "are")
        click.echo(f"{amount(pending, 'trial')} {has} not ended and {is_} left out", err=True)
    print_lost(lost)


def print_lost(lost: Iterable[str]) -> None:
    """Say what was deleted."""
    for text in lost:
        click.echo(text, err=True)
