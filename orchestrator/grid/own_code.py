"""What a grid needs of users' own code, and whether it can be used: before anything is created."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from orchestrator.errors import CodeError
from orchestrator.extensions import told
from orchestrator.files import is_file
from orchestrator.grid.quoting import shown
from orchestrator.grid.source import Mistake
from workloads import measures
from workloads.extensions import Extension, ExtensionError, active, explained, within
from workloads.extensions.loading import place_of_measure
from workloads.extensions.trying import TRY_SECONDS, try_factorization, try_loss
from workloads.factorizations import Factorization
from workloads.losses import Loss
from workloads.section import Conflict
from workloads.trial import Trial, TrialSpec


def check_needs(data: Mapping[str, Any], folder: Path, mistakes: list[Mistake]) -> bool:
    """Return whether all code is there that a grid ``needs``. It never comes from the grid: somebody has to name it beside."""
    needs = data.get("needs", ())
    wanted = [needs] if isinstance(needs, str) else needs
    if not isinstance(wanted, Sequence) or not all(isinstance(one, str) and one for one in wanted):
        mistakes.append(Mistake(("needs",), "needs", f"must be the name of a file or module, or a list of such, not {shown(needs)}"))
        return False
    there = {extension.name for extension in active()}
    for place, one in enumerate(wanted):
        if not _names(one) & there:
            path = folder / one
            given = path if one.endswith(".py") and is_file(path) else one
            key = ("needs",) if isinstance(needs, str) else ("needs", place)
            mistakes.append(Mistake(key, "needs", f"{one} is code, which a grid alone never runs: give it as --with {given}"))
    return not mistakes


def _names(needed: str) -> set[str]:
    """Return what code may go by that a grid says it needs: a module that is a single file goes by that of its file."""
    return {PurePath(needed).name} if needed.endswith(".py") else {needed, f"{needed}.py"}


def try_kind(
    factorization: Factorization, shape: tuple[int, ...] | None, look: Callable[[], list[Conflict]], seconds: float = TRY_SECONDS
) -> list[Conflict]:
    """Return what a ``look`` at a factorization beside the other parts finds, and if that is nothing see that it can be computed.

    What is not of users' own code is only looked at. Raises `CodeError` where such code fails, or takes more than so many ``seconds``.
    """
    if not factorization.code:
        return look()
    tried = shape is not None and not factorization.solved
    try:
        try:
            found = within(seconds, look, f"a look at {factorization.kind}")
        except ExtensionError:
            raise
        except Exception:
            # If it is its shapes that are to blame, this says so.
            if shape is not None and tried:
                try_factorization(factorization, shape, seconds)
            raise
        if not found and shape is not None and tried:
            try_factorization(factorization, shape, seconds)
    except ExtensionError as error:
        raise CodeError(str(error)) from error
    return found


def try_loss_of(section: object) -> None:
    """See that a part of a spec, if it is a loss of users' own code, can be computed. Raises `CodeError`."""
    if isinstance(section, Loss) and section.code:
        with told():
            try_loss(section)


def try_measures(names: Iterable[str], specs: Iterable[TrialSpec]) -> None:
    """See that measures of users' own code can be computed. Raises `CodeError`."""
    own = [name for name in names if measures.code_of(name)]
    for spec in specs if own else ():
        for name in own:
            try:
                if measures.undefined(name, spec) is None:
                    within(TRY_SECONDS, partial(measures.column_names, name, spec), f"measure {name}")
            except ExtensionError as error:
                raise CodeError(str(error)) from error
            except Exception as error:
                row = next(row for row in measures.MEASURES if row.match(name) is not None)
                raise CodeError(explained(error) or f"{place_of_measure(row)}: {error}") from error


def used(trials: Iterable[Trial], names: Iterable[str], data: Mapping[str, Any]) -> tuple[Extension, ...]:
    """Return the code that trials' kinds, and the measures that are recorded of them, are from, and all that the grid's ``data`` needs."""
    if not active():
        return ()
    trials = list(trials)
    digests = {digest for trial in trials for part in trial.spec.own for digest in part.codes()}
    digests |= {measures.code_of(name) for name in names}
    for spec in {trial.spec.sections: trial.spec for trial in trials}.values():
        digests |= {measures.code_of(name) for name in measures.watched(spec)}
    needs = data.get("needs", ())
    needed = {name for one in ([needs] if isinstance(needs, str) else needs) for name in _names(one)}
    return tuple(extension for extension in active() if extension.digest in digests or extension.name in needed)
