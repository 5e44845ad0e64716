"""``orchestrate plan``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import grid_argument, json_option, print_json, reuse_option, set_option, tracking_option, with_option
from workloads.amounts import agreeing, amount

if TYPE_CHECKING:
    from orchestrator.grid import Grid
    from orchestrator.planning.pack import Pack
    from orchestrator.planning.plan import Plan
    from orchestrator.tracking.read.reuse import Reuse
    from workloads.training.trial_state import Paused
    from workloads.trial import Trial


@click.command("plan")
@grid_argument
@set_option
@with_option
@click.option("--workers", type=click.IntRange(min=1), help="Packs that run at once [default: what this machine's cores allow].")
@reuse_option
@tracking_option
@json_option
def command(
    grid: Path,
    overrides: tuple[str, ...],
    modules: tuple[str, ...],
    workers: int | None,
    reuse_from: tuple[str, ...],
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Print what GRID would run: trials, packs, engines, memory and time. Starts and creates nothing.

    Where there is an MLflow store, also which trials it has already, and why others that it has are run again.

    \b
    Example:
      orchestrate plan configs/depth-vs-init.yaml
      orchestrate plan configs/depth-vs-init.yaml --set seeds=50 --workers 64
    """
    from orchestrator.cli.progress import counted
    from orchestrator.extensions import use
    from orchestrator.grid import load_grid

    use(modules)
    with counted("expanding the grid") as advanced:
        loaded = load_grid(grid, overrides, advanced)
    show_plan(loaded, workers, as_json, reuse_of(loaded, reuse_from, tracking_uri))


def reuse_of(grid: Grid, experiments: Sequence[str], tracking_uri: str | None) -> Reuse | None:
    """Return what a grid would reuse of its own and other ``experiments``; ``None`` where there is no store yet."""
    from orchestrator.tracking.store import is_there, open_existing

    if not is_there(tracking_uri):
        return None
    from orchestrator.sweeps.at_ends import ended_with_less
    from orchestrator.sweeps.continuing import foreseen
    from orchestrator.sweeps.submit import recording_of
    from orchestrator.tracking.read.queries import check_experiments
    from orchestrator.tracking.read.reuse import look_up

    store = open_existing(tracking_uri)
    places = [grid.name, *check_experiments(store, experiments)]
    recording, traced = recording_of(grid), grid.traced

    def among(left: Collection[str]) -> list[Trial]:
        return [trial for trial in grid.trials if trial.trial_id in left]

    def further(left: Collection[str]) -> dict[str, Paused]:
        return {key: state for name in reversed(places) for key, state in foreseen(store, name, among(left), recording).items()}

    def less(left: Collection[str]) -> dict[str, tuple[str, ...]]:
        return {key: one.missing for key, one in ended_with_less(store, places, among(left), recording, traced).items()}

    return look_up(store, places, [trial.trial_id for trial in grid.trials], recording, traced, further, less)


def show_plan(grid: Grid, workers: int | None, as_json: bool, reuse: Reuse | None = None) -> None:
    """Plan what is left to train of ``grid`` and print it, as text or JSON, with what it would reuse."""
    from orchestrator.sweeps.plan import planned_here
    from orchestrator.sweeps.submit import detail_of, recording_of

    recording, plan = recording_of(grid), planned_here(grid, workers, None if reuse is None else list(_left(grid, reuse)))
    if as_json:
        known = {} if reuse is None else reuse.as_json()
        said = {"experiment": grid.name, "merged": grid.extent.merged, "runs": detail_of(grid).runs}
        print_json({**said, **plan.as_json(), **known})
        return
    varies = f", varying {', '.join(grid.extent.keys)}" if grid.extent.keys else ""
    click.echo(f"{grid.name}: {amount(len(grid.trials), 'trial')}{varies}")
    if merged := grid.extent.merged:
        points = f"{amount(merged, 'more point')} of the grid {'is' if merged == 1 else 'are'}"
        click.echo(f"{points} the same trials: what draws nothing is one trial for all seeds")
    if coinciding := grid.extent.coinciding:
        are, they = ("is", "it is no trial") if coinciding == 1 else ("are", "they are no trials")
        click.echo(f"{amount(coinciding, 'draw')} of random {are} the same as earlier ones: {they} apart")
    for line in _reused(reuse) if reuse is not None else ():
        click.echo(line)
    specs = {trial.spec.sections: trial.spec for trial in grid.trials}.values()
    click.echo(f"records {', '.join(dict.fromkeys(name for spec in specs for name in recording.names(spec)))}")
    click.echo(str(detail_of(grid)))
    if plan.packs:
        for line in _described(plan):
            click.echo(line)


def _left(grid: Grid, reuse: Reuse) -> Iterator[Trial]:
    """Yield the trials that are left to train, from where they stand."""
    for trial in grid.trials:
        state = reuse.continued.get(trial.trial_id)
        if state is not None and state.outcome is None:
            yield state
        elif trial.trial_id in reuse.begin:
            yield trial


def _described(plan: Plan) -> Iterator[str]:
    """Yield in words the packs of a plan, and what they take."""
    from workloads.engines.choice import remarks

    yield f"{amount(len(plan.packs), 'pack')}, {plan.workers} at once:"
    alike: dict[tuple[str, str, tuple[int, ...], str], list[Pack]] = {}
    for pack in plan.packs:
        spec = pack.trials[0].spec
        alike.setdefault((pack.engine, spec.factorization.kind, spec.shape, _parameters(spec)), []).append(pack)
    for (engine, kind, shape, parameters), same in alike.items():
        yield (
            f"  {len(same):4d} x {engine:8s} {kind} {'x'.join(map(str, shape))} ({parameters}): "
            f"{amount(sum(len(p.trials) for p in same), 'trial')}, "
            f"up to {amount(max(p.width for p in same), 'lane')} and {_size(max(p.bytes for p in same))} a pack"
        )
    yield from remarks([(p.trials[0].spec, p.engine) for p in plan.packs])
    time = (
        "not known: some trials have only a time budget"
        if plan.seconds is None
        else f"{_duration(plan.seconds)} if every trial takes all its steps"
    )
    rates = plan.crews[0].rates
    yield f"memory: about {_size(plan.peak_bytes)} at once"
    yield f"time: {time}"
    yield f"estimated from rates {rates.source}: {1e-9 / rates.fused:.0f} GFLOP/s fused, {1e-9 / rates.batched:.0f} batched on a core"


def _reused(reuse: Reuse) -> Iterator[str]:
    yield from reuse.lines()
    if reuse.left == 0:
        yield "nothing is left to train"
    elif reuse.left < reuse.trials:
        are, theirs = agreeing(reuse.left, "is", "are"), agreeing(reuse.left, "its own", "theirs")
        yield f"{amount(reuse.left, 'trial')} {are} left to train: packs, memory and time below are {theirs}"


def _parameters(spec: object) -> str:
    from workloads.trial import TrialSpec

    assert isinstance(spec, TrialSpec)
    return " ".join("x".join(map(str, shape)) for shape in list(spec.factor_shapes.values()))


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"about {seconds:.0f} s"
    if seconds < 7200:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
