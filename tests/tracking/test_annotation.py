"""Names and notes of sweeps, in stores of every kind."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from orchestrator.errors import UsageError
from orchestrator.tracking import layout
from orchestrator.tracking.notes import BEGIN, END
from orchestrator.tracking.read.queries import find_sweep
from orchestrator.tracking.store import Store
from orchestrator.tracking.write.annotation import annotate, rename
from orchestrator.tracking.write.parent import SweepInfo
from orchestrator.tracking.write.writer import SweepWriter

MakeSweep = Callable[..., SweepInfo]


def begun(store: Store, sweep: SweepInfo) -> str:
    with SweepWriter(store, sweep):
        return sweep.sweep_id


@pytest.mark.parametrize("store", ["bulk", pytest.param("server", marks=pytest.mark.server)], indirect=True)
def test_a_sweep_is_found_by_its_name(store: Store, make_sweep: MakeSweep, experiment: str) -> None:
    one, other = (begun(store, make_sweep("a")) for _ in range(2))
    name = f"deep {uuid.uuid4().hex[:8]}"
    assert find_sweep(store, one).name == layout.sweep_name(one)
    assert find_sweep(store, layout.sweep_name(one)).sweep_id == one
    rename(store, find_sweep(store, one), name)
    found = find_sweep(store, name)
    assert (found.sweep_id, found.name) == (one, name)
    assert store.client.get_run(found.parent_run_id).info.run_name == name
    rename(store, found, name)
    for taken, message in (
        (name, f"means sweep {one} of"),
        (experiment, "is an experiment"),
        ("latest", "latest is always"),
        (one, f"means sweep {one}"),
        (one[:6], f"means sweep {one}"),
        *((wrong, "a name has 1 to 250 printable characters") for wrong in ("", " ", "a ", "a\nb", "x" * 251)),
    ):
        with pytest.raises(UsageError, match=message):
            rename(store, find_sweep(store, other), taken)
    # As MLflow's page allows.
    store.client.update_run(find_sweep(store, other).parent_run_id, name=name)
    with pytest.raises(UsageError, match=f"is the name of several sweeps: {other} .*{one} "):
        find_sweep(store, name)
    assert find_sweep(store, one).sweep_id == one


@pytest.mark.parametrize("store", ["bulk", pytest.param("server", marks=pytest.mark.server)], indirect=True)
def test_notes_are_added_to_and_replaced(store: Store, make_sweep: MakeSweep) -> None:
    sweep = begun(store, make_sweep("a"))
    assert find_sweep(store, sweep).note == ""
    for text in ("levels off", "the sign is lost"):
        annotate(store, find_sweep(store, sweep), text)
    found = find_sweep(store, sweep)
    assert found.note == "levels off\n\nthe sign is lost"
    description = store.client.get_run(found.parent_run_id).data.tags["mlflow.note.content"]
    assert description.startswith(f"{BEGIN}\n\n**1 trial**: none run\n\n{END}")
    assert description.endswith(f"\n\n{found.note}")
    with pytest.raises(UsageError, match=r"would have 8,0[0-9]{2} characters: MLflow takes 8,000"):
        annotate(store, found, "x" * 8000)
    annotate(store, found, "y" * 8000, replace=True)
    assert find_sweep(store, sweep).note == "y" * 8000
    annotate(store, find_sweep(store, sweep), "short", replace=True)
    assert find_sweep(store, sweep).note == "short"
