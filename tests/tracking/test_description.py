"""What MLflow's page says first of a sweep: counts, whose trials it reuses, verdicts, links; and what people write stays theirs."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from orchestrator.tracking import layout
from orchestrator.tracking.notes import BEGIN, END, own_note, with_note, with_summary
from orchestrator.tracking.read.queries import find_finished, find_sweep
from orchestrator.tracking.store import Store
from orchestrator.tracking.sweep_file import taken_along
from orchestrator.tracking.write.annotation import annotate
from orchestrator.tracking.write.description import describe
from orchestrator.tracking.write.parent import SweepInfo
from orchestrator.tracking.write.writer import SweepWriter
from workloads.training.results import TrialResult
from workloads.training.trial_state import Outcome

MakeSweep = Callable[..., SweepInfo]
MakeResult = Callable[..., TrialResult]
EITHER = pytest.mark.parametrize("store", ["bulk", pytest.param("server", marks=pytest.mark.server)], indirect=True)


def written(store: Store, sweep: SweepInfo, *ended: TrialResult) -> str:
    """The run of a sweep that has ended."""
    with SweepWriter(store, sweep) as writer:
        writer.add("pack-0", ended)
    return find_sweep(store, sweep.sweep_id).parent_run_id


def description(store: Store, run_id: str) -> str:
    return store.client.get_run(run_id).data.tags[layout.NOTE]


def lines(store: Store, run_id: str) -> list[str]:
    """The lines that the program wrote."""
    text = description(store, run_id)
    assert text.startswith(f"{BEGIN}\n\n")
    return [line for line in text.removeprefix(BEGIN).split(END)[0].splitlines() if line]


@EITHER
def test_a_sweep_leads_to_those_whose_trials_it_reuses(
    store: Store, make_sweep: MakeSweep, make_result: MakeResult, experiment: str
) -> None:
    one, two = make_sweep("a b"), make_sweep("c")
    runs = [written(store, one, make_result("a"), make_result("b", Outcome.EXHAUSTED)), written(store, two, make_result("c"))]
    assert lines(store, runs[0]) == ["**2 trials**: 1 converged, 1 exhausted"]
    number = store.client.get_run(runs[0]).info.experiment_id
    there = find_finished(store, experiment, {"a", "b", "c"}, one.record)
    all_of_it = written(store, make_sweep("a b c", reused=there))
    links = [f"[{sweep.sweep_id}](#/experiments/{number}/runs/{run})" for sweep, run in zip((one, two), runs, strict=True)]
    assert lines(store, all_of_it) == [f"**3 trials**: none run; 3 reused: 2 from {links[0]}, 1 from {links[1]}"]


def test_verdicts_and_what_there_is_to_be_read_are_said(local: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    run = written(local, make_sweep("a"), make_result("a"))
    annotate(local, find_sweep(local, "latest"), "mine\n\n* and *more*")
    verdicts = [
        {"name": "one", "verdict": "holds", "holds": True, "required": True, "found": "it is 1|2"},
        {"name": "two", "verdict": "broken", "holds": False, "required": True, "found": "</td><script>\n*x*"},
        {"name": "three", "verdict": "broken", "holds": False, "required": False, "found": "so what"},
    ]
    local.attach(run, {layout.CLAIMS_FILE: json.dumps(verdicts), layout.REPORT_FILE: "<p>", f"{layout.FIGURES_FOLDER}/a.svg": "<svg/>"})
    describe(local, run)
    address = f"#/experiments/{local.client.get_run(run).info.experiment_id}/runs/{run}/artifacts"
    assert lines(local, run) == [
        "**1 trial**: 1 converged",
        f"[report]({address}/report.html) · [figures]({address}/figures)",
        "| claim | verdict | found |",
        "|---|---|---|",
        r"| one | holds | it is 1\|2 |",
        r"| two | **does not hold** | &lt;/td&gt;&lt;script&gt;\\n\*x\* |",
        "| three | does not hold | so what |",
    ]
    assert find_sweep(local, "latest").note == "mine\n\n* and *more*"
    annotate(local, find_sweep(local, "latest"), "other", replace=True)
    assert description(local, run).endswith(f"| three | does not hold | so what |\n\n{END}\n\nother")


def test_what_cannot_be_written_ends_nothing(local: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    run = written(local, make_sweep("a"), make_result("a"))
    local.attach(run, {layout.CLAIMS_FILE: "no JSON"})
    before = description(local, run)
    describe(local, run)
    describe(local, "0" * 32)
    assert description(local, run) == before


def test_what_people_write_is_kept_wherever_they_write_it() -> None:
    made = with_summary("", "said")
    assert own_note(made) == ""
    assert own_note(f"above\n\n{made}\n\nbelow") == "above\n\nbelow"
    assert with_summary(f"above\n\n{made}\n\nbelow", "anew") == f"{BEGIN}\n\nanew\n\n{END}\n\nabove\n\nbelow"
    assert with_note(made, "mine") == with_summary("mine", "said")
    assert with_note(with_note(made, "mine"), "") == made
    # Who takes out a comment means to keep the rest.
    broken = made.replace(END, "")
    assert own_note(broken) == broken
    assert own_note(with_summary(broken, "anew")) == broken.strip("\n")


@pytest.mark.parametrize("length", [7000, 7980, 8000])
def test_a_summary_takes_the_room_that_notes_leave(length: int) -> None:
    made = with_summary("n" * length, "\n".join(["first", *("x" * 50 for _ in range(100))]))
    assert len(made) <= 8000
    assert own_note(made) == "n" * length
    assert ("first" in made) == (length == 7000)


def test_links_to_runs_do_not_travel() -> None:
    assert taken_along({layout.NOTE: with_note(with_summary("", "said"), "mine")}) == {layout.NOTE: "mine"}
    assert taken_along({layout.NOTE: with_summary("", "said")}) == {}
