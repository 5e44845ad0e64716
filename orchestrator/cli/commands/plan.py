"""``orchestrate plan``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import grid_argument, json_option, print_json, reuse_option, set_option, tracking_option, with_option

if TYPE_CHECKING:
    from orchestrator.grid import Grid
    from orchestrator.tracking.read.reuse import Reuse


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
    from orchestrator.sweeps.submit import recording_of
    from orchestrator.tracking.read.queries import check_experiments
    from orchestrator.tracking.read.reuse import look_up

    store = open_existing(tracking_uri)
    places = [grid.name, *check_experiments(store, experiments)]
    recording, traced = recording_of(grid), grid.traced

    def less(left: Collection[str]) -> dict[str, tuple[str, ...]]:
        trials = [trial for trial in grid.trials if trial.trial_id in left]
        return {key: one.missing for key, one in ended_with_less(store, places, trials, recording, traced).items()}

    return look_up(store, places, [trial.trial_id for trial in grid.trials], recording, traced, less)


def show_plan(grid: Grid, workers: int | None, as_json: bool, reuse: Reuse | None = None) -> None:
    """Plan ``grid`` and print it, as text or JSON, with what it would reuse."""
    from orchestrator.planning.plan import amount
    from orchestrator.sweeps.plan import planned_here
    from orchestrator.sweeps.submit import detail_of, recording_of
    from workloads.engines.choice import remark

    recording, plan = recording_of(grid), planned_here(grid, workers)
    rates = plan.crews[0].rates
    if as_json:
        known = {} if reuse is None else reuse.as_json()
        said = {"experiment": grid.name, "merged": grid.extent.merged, "runs": detail_of(grid).runs}
        print_json({**said, **plan.as_json(), **known})
        return
    varies = f", varying {', '.join(grid.extent.keys)}" if grid.extent.keys else ""
    click.echo(f"{grid.name}: {amount(plan.trials, 'trial')}{varies}")
    if merged := grid.extent.merged:
        click.echo(f"{merged} more points of the grid are the same trials: what draws nothing is one trial for all seeds")
    if coinciding := grid.extent.coinciding:
        click.echo(f"{coinciding} draws of random are the same as earlier ones, and are no trials of their own")
    for line in _reused(reuse) if reuse is not None else ():
        click.echo(line)
    click.echo(f"records {', '.join(dict.fromkeys(name for pack in plan.packs for name in recording.names(pack.trials[0].spec)))}")
    kinds = Counter(
        (p.engine, p.trials[0].spec.factorization.kind, p.trials[0].spec.shape, _parameters(p.trials[0].spec)) for p in plan.packs
    )
    click.echo(str(detail_of(grid)))
    click.echo(f"{amount(len(plan.packs), 'pack')}, {plan.workers} at once:")
    for (engine, kind, shape, parameters), count in kinds.items():
        same = [
            p
            for p in plan.packs
            if (p.engine, p.trials[0].spec.factorization.kind, p.trials[0].spec.shape, _parameters(p.trials[0].spec))
            == (engine, kind, shape, parameters)
        ]
        trials = sum(len(p.trials) for p in same)
        click.echo(
            f"  {count:4d} x {engine:8s} {kind} {'x'.join(map(str, shape))} ({parameters}): {amount(trials, 'trial')}, "
            f"up to {amount(max(p.width for p in same), 'lane')} and {_size(max(p.bytes for p in same))} a pack"
        )
    for line in filter(None, dict.fromkeys(remark(p.trials[0].spec, p.engine) for p in plan.packs)):
        click.echo(line)
    time = (
        "not known: some trials have only a time budget"
        if plan.seconds is None
        else f"{_duration(plan.seconds)} if every trial takes all its steps"
    )
    click.echo(f"memory: about {_size(plan.peak_bytes)} at once")
    click.echo(f"time: {time}")
    click.echo(f"estimated from rates {rates.source}: {1e-9 / rates.fused:.0f} GFLOP/s fused, {1e-9 / rates.batched:.0f} batched on a core")


def _reused(reuse: Reuse) -> Iterator[str]:
    yield from reuse.lines()
    if reuse.left < reuse.trials:
        yield f"{reuse.left} trials are left to train; packs, memory and time below are those of all {reuse.trials}"


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
