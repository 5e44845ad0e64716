"""The parts of a grid file beside the trials' specs: what is recorded, and what resources are asked for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from workloads.section import LARGEST_COUNT, Finite, Section, Whole, as_tuple

SMALLEST_SHARE = 1e-4
"""Of a core or GPU: Ray counts in these."""


def _share(value: float) -> float:
    if 0 < value < SMALLEST_SHARE:
        raise ValueError(f"must be at least {SMALLEST_SHARE:g}, the smallest share that can be scheduled, not {value:g}")
    return value


Step = Annotated[Whole, Field(ge=0, le=LARGEST_COUNT)]


class Record(Section):
    """What is recorded: ``points`` spread evenly over log(step) and again over log(loss), or exactly the ``steps`` listed.

    A trial's factors at ``checkpoint_steps``, and where ``checkpoint_losses`` are first reached, become artifacts of its run.
    """

    points: Annotated[Whole, Field(ge=0, le=10_000)] = 200
    steps: Annotated[tuple[Step, ...], BeforeValidator(as_tuple), Field(min_length=1)] | None = None
    measures: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] | None = None
    checkpoint_steps: Annotated[tuple[Step, ...], BeforeValidator(as_tuple), Field(max_length=100)] = ()
    checkpoint_losses: Annotated[tuple[Annotated[Finite, Field(gt=0)], ...], BeforeValidator(as_tuple), Field(max_length=100)] = ()


class Resources(Section):
    """What each pack gets: ``cpus`` cores and ``gpus`` GPUs (a fraction shares one; ``auto`` takes what the cluster has)."""

    cpus: Annotated[Finite, Field(gt=0), AfterValidator(_share)] = 1.0
    gpus: Literal["auto"] | Annotated[Finite, Field(ge=0), AfterValidator(_share)] = "auto"
    engine: Literal["auto", "autograd", "batched", "fused"] = "auto"


class Tracking(Section):
    """What MLflow gets: which trials become ``runs`` (``auto``: all of up to 20,000, else a sample), and about how many ``points`` of each
    trace."""

    runs: Literal["auto", "all", "sampled", "none"] = "auto"
    points: Annotated[Whole, Field(ge=2, le=10_000)] = 30


TOP: dict[str, Any] = {
    "name": "the MLflow experiment",
    "fixed": "keys that all trials share",
    "cases": "a list, each item a set of keys",
    "grid": "key: list of values; all combinations",
    "zip": "key: list of values, advancing together",
    "random": "samples, seed, and key: distribution",
    "seeds": "a number of seeds, or a list of them",
    "exclude": "a list of partial specs to leave out",
    "record": "what is recorded, and when",
    "tracking": "which trials become runs of MLflow",
    "resources": "what each pack gets",
    "figures": "name: a picture of the runs",
    "claims": "name: a statement about the runs that is checked",
}
"""Top-level keys of a grid file, with a word on each."""

SCALARS = ("loss", "dtype", "seed")
"""Parts of a spec that are single values."""
