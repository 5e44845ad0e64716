"""A sweep's figures and verdicts: drawn and checked, written to a folder, and added to the sweep's MLflow run."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.analysis import figure_tables
from orchestrator.analysis.claims import Verdict, verify
from orchestrator.analysis.figures import draw, spec_of, tabulate
from orchestrator.analysis.rendering import FORMATS, rendering
from orchestrator.analysis.results import Results
from orchestrator.errors import BusyError, UsageError
from orchestrator.files import file_name, make_folder, write_file
from orchestrator.grid.claims import Claim
from orchestrator.grid.figures import Figure
from orchestrator.grid.load import parse_questions, parse_tracking
from orchestrator.tracking import layout
from orchestrator.tracking.read.tables import lost
from orchestrator.tracking.turns import experiment_turn
from orchestrator.tracking.write.description import describe
from orchestrator.tracking.write.late import add_runs

if TYPE_CHECKING:
    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store

FOLDER = Path("figures")
"""Where figures are written, in a folder of the experiment's name and one of the sweep's id."""


@dataclass(frozen=True)
class Report:
    """What came of a grid's questions: the files drawn, figures that could not be (with the reason), and the verdicts.

    ``pending`` trials have no outcome yet and were left out; ``lost`` says in words what was deleted.
    """

    files: tuple[Path, ...]
    undrawn: Mapping[str, str]
    verdicts: tuple[Verdict, ...]
    pending: int
    lost: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """True if all figures could be drawn and every required claim holds."""
        return not self.undrawn and all(verdict.sound for verdict in self.verdicts)


def questions_of(store: Store, sweep: SweepSummary) -> tuple[dict[str, Figure], dict[str, Claim]]:
    """Return the figures and claims of the grid that a sweep was submitted with."""
    return parse_questions(store.read(sweep.parent_run_id, layout.GRID_FILE).decode(), layout.GRID_FILE)


def folder_of(sweeps: Sequence[SweepSummary]) -> Path:
    """Where figures of sweeps are written unless told otherwise: those of other sweeps are elsewhere."""
    experiments = dict.fromkeys(sweep.experiment for sweep in sweeps)
    return FOLDER / file_name("-".join(experiments)) / file_name("-".join(sweep.sweep_id for sweep in sweeps))


def report(
    store: Store,
    sweeps: Sequence[SweepSummary],
    figures: Mapping[str, Figure],
    claims: Mapping[str, Claim],
    folder: Path,
    *,
    formats: Collection[str] = (*FORMATS, *figure_tables.FORMATS),
    log: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Draw ``figures`` of the trials of ``sweeps`` into ``folder`` and check ``claims``.

    With ``log``, the MLflow run of a single sweep gets all of it, and a claim about what the runs do not have does not hold; without,
    `orchestrator.errors.UsageError` is raised for it. ``tell`` is called before what takes long. Raises
    `orchestrator.errors.StorageUnavailable` if ``folder`` cannot be written, and what reading MLflow raises.
    """
    if figures:
        make_folder(folder)
    results = Results.load(store, sweeps)
    drawn: dict[str, bytes] = {}
    undrawn: dict[str, str] = {}
    tabulated: dict[str, dict[str, bytes]] = {}
    with rendering([form for form in formats if form in FORMATS], len(figures)) as renderer:
        started: dict[str, Future[dict[str, bytes]]] = {}
        for name, figure in figures.items():
            tell(f"drawing {name}")
            with noting(name, undrawn):
                started[name] = renderer.start(spec_of(draw(figure, results)))
                tabulated[name] = tabulate(figure, results, formats)
        # While they are rendered.
        verdicts = judged(claims, results, strict=not log)
        for name, files in started.items():
            with noting(name, undrawn):
                drawn |= {f"{name}.{form}": content for form, content in (files.result() | tabulated[name]).items()}
    for name, content in drawn.items():
        write_file(folder / name, content)
    if log and len(sweeps) == 1:
        verdicts = _with_runs(store, sweeps[0], verdicts)
        _log(store, sweeps[0], drawn, verdicts)
    traced = any(question.needs_traces for question in (*figures.values(), *claims.values()))
    missing = tuple(lost(results.runs, results.history if traced else None))
    pending = int(results.runs["outcome"].isna().sum())
    return Report(tuple(folder / name for name in drawn), undrawn, verdicts, pending, missing)


def _log(store: Store, sweep: SweepSummary, drawn: Mapping[str, bytes], verdicts: Sequence[Verdict]) -> None:
    """Add figures and verdicts to a sweep's run."""
    attached: dict[str, str | bytes] = {f"{layout.FIGURES_FOLDER}/{name}": content for name, content in drawn.items()}
    if verdicts:
        attached[layout.CLAIMS_FILE] = json.dumps([verdict.as_json() for verdict in verdicts], indent=2)
    if attached:
        store.attach(sweep.parent_run_id, attached)
    if verdicts:
        held, withheld = (sum(verdict.word == word for verdict in verdicts) for word in ("holds", "withheld"))
        counts = {"claims_held": held, "claims_broken": sum(v.broken for v in verdicts), "claims_withheld": withheld}
        store.measure(sweep.parent_run_id, counts)
    describe(store, sweep.parent_run_id)


def _with_runs(store: Store, sweep: SweepSummary, verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Return verdicts whose worst offenders have runs, which they may not have had where a sample of the trials has."""
    worst = {verdict.worst.trial_id for verdict in verdicts if verdict.worst is not None and verdict.worst.run_id is None}
    if not worst or sweep.tags.get(layout.DETAIL) != "sampled":
        return tuple(verdicts)
    points = parse_tracking(store.read(sweep.parent_run_id, layout.GRID_FILE).decode()).points
    try:
        with experiment_turn(store, sweep.experiment, patient=False):
            made = add_runs(store, sweep, worst, points)
    except BusyError:
        # Verdicts wait for nobody; the next ones may find it their turn.
        return tuple(verdicts)
    return tuple(
        replace(verdict, worst=replace(verdict.worst, run_id=made[verdict.worst.trial_id]))
        if verdict.worst is not None and verdict.worst.trial_id in made
        else verdict
        for verdict in verdicts
    )


@contextmanager
def noting(name: str, undrawn: dict[str, str]) -> Iterator[None]:
    """Take note of why a figure cannot be drawn: whatever it is, the others and the verdicts are wanted."""
    try:
        yield
    except UsageError as error:
        undrawn[name] = str(error)
    except Exception as error:
        undrawn[name] = f"{type(error).__name__}: {error}"


def judged(claims: Mapping[str, Claim], results: Results, *, strict: bool = False) -> tuple[Verdict, ...]:
    """Return the verdicts on claims. One about what the runs do not have does not hold, or, if ``strict``, is a `UsageError`."""
    return tuple(verdict for name, claim in claims.items() for verdict in _verdicts(name, claim, results, strict=strict))


def _verdicts(name: str, claim: Claim, results: Results, *, strict: bool) -> list[Verdict]:
    try:
        return verify({name: claim}, results)
    except UsageError as error:
        # Of a grid that was checked: its trials have failed before they recorded anything.
        if strict:
            raise
        return [Verdict(name, False, 0, str(error), None, claim.says or claim.words(), claim.source, claim.required)]
