"""Trials under another budget of steps: they go on from where they were, and end as they would have from step 0."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import orchestrator
from orchestrator.cli.commands.plan import _left, reuse_of, show_plan
from orchestrator.errors import UsageError
from orchestrator.grid import parse_grid
from orchestrator.options import Options
from orchestrator.planning.plan import make_plan
from orchestrator.sweeps.plan import planned_here
from orchestrator.sweeps.remove import remove
from orchestrator.sweeps.submit import submit
from orchestrator.tracking.read.queries import list_sweeps
from orchestrator.tracking.store import open_existing
from tests.cli.commands import run
from tests.sweeps.test_submit import Quiet, uri
from workloads.training.trial_state import Paused

GRID = """\
name: budgets
fixed:
  problem: {kind: matrix_completion, shape: [4, 4], target: {rank: 1, frobenius: 2.0}, observed: 9}
  factorization: {kind: deep_matrix, depth: 2}
  init: {kind: gaussian, scale: 0.4}
  stop: {loss: 1e-3, steps: 100}
cases:
  - {optimizer.kind: gd, grid: {optimizer.lr: [0.001, 0.2, 300.0]}}
  - {optimizer: {kind: momentum, lr: 0.001}}
seeds: 2
record: {points: 20, measures: [error, effective_rank]}
"""
MORE = "stop.steps=5000"
AS_MADE = "as_made.db"


@pytest.fixture(scope="module")
def cluster(cluster_address):
    return cluster_address


def go(folder, cluster, overrides=(), text=GRID, **options):
    reporter = Quiet()
    grid = parse_grid(text, "budgets.yaml", folder, overrides)
    summary = submit(grid, reporter, Options(cluster, uri(folder), str(folder / "storage"), workers=1, **options))
    where = {"tracking_uri": uri(folder)}
    loaded = orchestrator.load_runs(summary.sweep_id, **where), orchestrator.load_history(summary.sweep_id, **where)
    return summary, reporter.notes, *loaded, orchestrator.load_factors(summary.sweep_id, **where), reporter.state


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory, template, cluster):
    """A grid submitted with few steps and then with more, and with more from the start, in stores of their own."""
    folders = [tmp_path_factory.mktemp(name) for name in ("raised", "fresh")]
    for folder in folders:
        shutil.copy(template, folder)
    made = go(folders[0], cluster), go(folders[0], cluster, [MORE]), go(folders[1], cluster, [MORE])
    shutil.copy(folders[0] / "mlflow.db", folders[0] / AS_MADE)
    return *made, folders[0]


@pytest.fixture
def copied(sweeps, tmp_path):
    """A database as ``sweeps`` have left it, in which no other test writes. Files go where those of the original do."""
    shutil.copy(sweeps[-1] / AS_MADE, tmp_path / "mlflow.db")
    return tmp_path


def test_what_was_exhausted_goes_on_and_what_had_ended_is_not_trained(sweeps):
    (few, _, before, *_), (more, notes, runs, *_), _, _ = sweeps
    assert (few.exhausted, few.converged, few.diverged) == (4, 2, 2)
    assert more.reused == 0
    setting = ["optimizer.kind", "optimizer.lr", "seed"]
    ended = before[before["outcome"] != "exhausted"].merge(runs, on=setting, suffixes=("", " then"))
    # Their seconds are those of their only training.
    assert len(ended) == 4
    assert ended["seconds then"].tolist() == pytest.approx(ended["seconds"].tolist(), rel=1e-3, abs=1e-6)
    assert "2 trials go on from where they were exhausted under another stop.steps" in notes
    assert "4 trials had ended under another stop.steps as they would now: they are not trained again" in notes
    assert (runs["stop.steps"] == 5000).all()


def test_what_has_ended_is_no_part_of_the_steps_that_are_left(sweeps):
    _, (*_, more), (*_, fresh), _ = sweeps
    # Two go on at step 100, two of momentum begin anew, and four have ended.
    assert more.budget == 2 * 4900 + 2 * 5000
    assert fresh.budget == 8 * 5000
    for state in (more, fresh):
        assert state.steps + state.settled_steps == state.budget


def test_they_end_with_the_bits_that_they_would_have_had(sweeps):
    _, (_, _, runs, history, factors, _), (_, _, fresh, whole, anew, _), _ = sweeps
    measured = ["outcome", "steps", "loss", "error", "effective_rank"]
    assert runs["trial_id"].tolist() == fresh["trial_id"].tolist()
    assert runs[measured].equals(fresh[measured])
    for trial_id in fresh["trial_id"]:
        for name, factor in anew[trial_id].items():
            np.testing.assert_array_equal(factor, factors[trial_id][name])
        # Where both have recorded they have recorded the same.
        one, other = (frame[frame["trial_id"] == trial_id].set_index("step").drop(columns="trial_id") for frame in (history, whole))
        both = one.index.intersection(other.index)
        assert len(both) > 2
        assert one.loc[both].equals(other.loc[both])
        assert one.index.is_monotonic_increasing
        assert one.index.is_unique


def test_fewer_steps_take_over_what_had_ended_by_then(sweeps, cluster):
    _, (_, _, before, *_), _, folder = sweeps
    _, notes, *_ = go(folder, cluster, ["stop.steps=4000"])
    had = int(((before["outcome"] != "exhausted") & (before["steps"] <= 4000)).sum())
    assert had >= 6
    assert f"{had} trials had ended under another stop.steps as they would now: they are not trained again" in notes


def test_nothing_goes_on_where_other_things_are_asked_for(sweeps, cluster):
    *_, folder = sweeps
    for overrides in (["record.points=21"], ["record.checkpoint_steps=[50]"]):
        _, notes, *_ = go(folder, cluster, [*overrides, "stop.steps=200"])
        assert not any("another stop.steps" in note for note in notes), overrides
    _, notes, *_ = go(folder, cluster, ["stop.steps=201"], fresh=True)
    assert not any("another stop.steps" in note for note in notes)


def test_stop_checks_in_a_row_that_are_not_known_begin_anew(tmp_path, template, cluster):
    """A trial that was exhausted within a row of checks that pass: how many had, only its lane knew."""
    shutil.copy(template, tmp_path)
    text = GRID.replace("{loss: 1e-3, steps: 100}", "{loss: 1e-3, steps: 100, check_every: 10, consecutive: 50}")
    few = go(tmp_path, cluster, text=text)
    _, notes, runs, *_ = go(tmp_path, cluster, ["stop.steps=2000"], text=text)
    low = few[2][(few[2]["outcome"] == "exhausted") & (few[2]["loss"] <= 1e-3)]
    assert len(low) > 0
    again = [note for note in notes if "go on from where they were exhausted" in note]
    assert again == ["2 trials go on from where they were exhausted under another stop.steps"]
    assert (runs["outcome"] != "failed").all()


def test_conditions_end_trials_that_go_on_where_they_would_have_ended(tmp_path, template, cluster):
    """``first`` and ``lowest`` are of the whole trial, also of the part that was another trial's."""
    stop = "{when: effective_rank < 0.9 * first(effective_rank) and step > 150, abort: loss > 1.5 * lowest(loss), steps: 100}"
    text = GRID.replace("{loss: 1e-3, steps: 100}", stop)
    folders = [tmp_path / name for name in ("raised", "fresh")]
    for folder in folders:
        folder.mkdir()
        shutil.copy(template, folder)
    few = go(folders[0], cluster, text=text)[0]
    _, notes, runs, *_ = go(folders[0], cluster, [MORE], text=text)
    whole, _, fresh, *_ = go(folders[1], cluster, [MORE], text=text)
    assert few.exhausted == 6
    assert few.aborted + few.diverged == 2
    assert "4 trials go on from where they were exhausted under another stop.steps" in notes
    assert whole.converged >= 2
    assert runs[["outcome", "reason", "steps", "loss"]].equals(fresh[["outcome", "reason", "steps", "loss"]])
    said = dict(zip(fresh["outcome"], fresh["reason"], strict=True))
    assert said["converged"].startswith("stop.when: effective_rank < 0.9")
    assert said.get("aborted", "stop.abort: loss > 1.5 * lowest(loss)") == "stop.abort: loss > 1.5 * lowest(loss)"
    assert said.get("exhausted", "stop.steps: 5000") == "stop.steps: 5000"


def test_trials_of_another_experiment_are_reused_if_asked(sweeps, cluster):
    *_, folder = sweeps
    text = GRID.replace("name: budgets", "name: other")
    summary, _, runs, history, *_ = go(folder, cluster, [MORE], text=text, reuse_from=("budgets",))
    assert (summary.reused, summary.trials) == (8, 8)
    assert runs["outcome"].notna().all()
    assert set(history["trial_id"]) == set(runs["trial_id"])
    more, *_ = go(folder, cluster, ["stop.steps=5001"], text=text, reuse_from=("budgets",))
    assert more.reused == 0
    with pytest.raises(UsageError, match=r"there is no experiment 'bugdets' in .*; there are .*budgets"):
        go(folder, cluster, [MORE], text=text, reuse_from=("bugdets",))


def test_a_sweep_says_why_it_runs_trials_again(sweeps, cluster):
    *_, folder = sweeps
    _, notes, *_ = go(folder, cluster, [MORE, "record.points=19"])
    assert any(note.endswith("run again: recorded at other steps") for note in notes)


ADDED = [MORE, "record.measures=[error, effective_rank, nuclear, det]"]
FIGURE = "figures: {curves: {kind: trajectories, y: error * nuclear}}\nclaims: {low: {kind: bound, that: nuclear > det, at: end}}\n"
"""Of the whole trace of the nuclear norm."""


def planned(folder, overrides, text=GRID):
    return list(reuse_of(parse_grid(text, "budgets.yaml", folder, overrides), (), uri(folder)).lines())


def test_measures_that_are_added_are_computed_at_the_ends_of_trials(sweeps, copied, cluster):
    _, (_, _, before, history, factors, _), *_ = sweeps
    said = "8 trials are not trained again: det, nuclear are computed from final factors, for the ends of traces"
    assert planned(copied, ADDED) == [said]
    summary, notes, runs, whole, *_ = go(copied, cluster, ADDED)
    assert said in notes
    assert any(note.startswith("budgets: 0 trials to run and 8 that have ended to hand on in ") for note in notes)
    assert not any("run again" in note for note in notes)
    assert summary.reused == 0
    kept = ["trial_id", "outcome", "steps", "error"]
    assert runs[kept].equals(before[kept])
    assert runs["seconds"].tolist() == pytest.approx(before["seconds"].tolist(), rel=1e-3, abs=1e-6)
    assert whole[history.columns].equals(history)
    for _, run_ in runs[runs["outcome"] != "diverged"].iterrows():
        product = factors[run_["trial_id"]]["W2"] @ factors[run_["trial_id"]]["W1"]
        assert run_["nuclear"] == pytest.approx(np.linalg.norm(product, "nuc"), rel=1e-12)
        assert run_["det"] == pytest.approx(np.linalg.det(product), rel=1e-9, abs=1e-15)
        trace = whole[whole["trial_id"] == run_["trial_id"]]["nuclear"]
        assert trace.iloc[:-1].isna().all()
        assert trace.iloc[-1] == run_["nuclear"]
    assert go(copied, cluster, ADDED)[0].reused == 8


def test_trials_whose_whole_traces_are_needed_are_run_again(copied, cluster):
    least = go(copied, cluster, ADDED)[2]
    text = GRID + FIGURE
    again = "8 are run again: has nuclear at its end only, and figures.curves is of whole traces"
    assert planned(copied, ADDED, text) == [again]
    more = [MORE, "record.measures=[error, effective_rank, nuclear, det, schatten_0.5]"]
    assert planned(copied, more, GRID + FIGURE.replace("nuclear}", "schatten_0.5}")) == [
        "8 are run again: recorded without schatten_0.5, and figures.curves is of whole traces"
    ]
    summary, notes, runs, history, *_ = go(copied, cluster, ADDED, text=text)
    assert again in notes
    assert summary.reused == 0
    assert runs["nuclear"].equals(least["nuclear"])
    ended = runs[runs["outcome"] != "diverged"]["trial_id"]
    assert history[history["trial_id"].isin(ended)]["nuclear"].notna().all()
    # These are whole, and those that they were run for do not have to be once more.
    assert planned(copied, ADDED, text) == ["8 of 8 trials are in MLflow already and are reused"]


def test_some_trials_are_run_again_to_see_more_of_them(sweeps, cluster):
    """Through the command, as its users have it: the grid of such a sweep is made, not written."""
    _, (more, _, runs, history, *_), _, folder = sweeps
    chosen = [runs["trial_id"][0], runs["trial_id"][5]]
    asked = ["--record", "points=40", "--record", "measures=[error, nuclear]", "--address", cluster, "--storage", str(folder / "storage")]
    named = [more.sweep_id, *(trial_id[:12] for trial_id in chosen)]
    ran = run(folder, "rerun", *named, *asked, "--tracking-uri", uri(folder), "--json")
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout.splitlines()[-1])
    assert (summary["trials"], summary["experiment"], summary["reused"]) == (2, "budgets", 0)
    again = orchestrator.load_runs(summary["sweep_id"], tracking_uri=uri(folder)).set_index("trial_id")
    finer = orchestrator.load_history(summary["sweep_id"], tracking_uri=uri(folder))
    before = runs.set_index("trial_id")
    assert again.index.tolist() == chosen
    assert again.loc[chosen, ["outcome", "steps", "error"]].equals(before.loc[chosen, ["outcome", "steps", "error"]])
    assert again["nuclear"].notna().all()
    assert (finer["trial_id"] == chosen[0]).sum() > (history["trial_id"] == chosen[0]).sum()
    wrong = run(folder, "rerun", more.sweep_id, "zz", "--tracking-uri", uri(folder))
    assert (wrong.returncode, wrong.stderr) == (2, "error: there is no trial 'zz': `orchestrate runs` lists those of a sweep\n")
    wrong = run(folder, "rerun", *named, "--record", "point=3", "--tracking-uri", uri(folder), "--storage", str(folder / "storage"))
    assert wrong.returncode == 2
    assert "record.point: unknown key; did you mean points?" in wrong.stderr


def test_a_plan_is_of_what_is_left_to_train(sweeps):
    *_, folder = sweeps
    grid = parse_grid(GRID, "budgets.yaml", folder, ["stop.steps=150", "seeds=3"])
    reuse = reuse_of(grid, (), uri(folder))
    left = list(_left(grid, reuse))
    # Four have ended by then, two go on, two of momentum begin anew, and four are new.
    going_on = {trial.trial_id: trial for trial in left if isinstance(trial, Paused)}
    assert (len(left), len(going_on)) == (reuse.left, 2) == (8, 2)
    assert all(trial.step == 100 for trial in going_on.values())
    assert "2 trials go on from where they were exhausted under another stop.steps" in list(reuse.lines())
    plan = planned_here(grid, 1, left)
    assert (plan.trials, plan.reused) == (12, 4)
    assert {trial.trial_id for pack in plan.packs for trial in pack.trials} == {trial.trial_id for trial in left}
    assert plan.seconds < planned_here(grid, 1).seconds


def test_a_plan_of_nothing_that_is_left_has_no_packs(sweeps, capsys):
    *_, folder = sweeps
    grid = parse_grid(GRID, "budgets.yaml", folder, [MORE])
    show_plan(grid, 1, False, reuse_of(grid, (), uri(folder)))
    said = capsys.readouterr().out.splitlines()
    assert said[1:3] == ["8 of 8 trials are in MLflow already and are reused", "nothing is left to train"]
    assert not any("pack" in line for line in said)
    show_plan(grid, 1, True, reuse_of(grid, (), uri(folder)))
    told = json.loads(capsys.readouterr().out)
    assert (told["trials"], told["reused"], told["left"], told["packs"], told["seconds"]) == (8, 8, 0, [], 0)


def test_what_is_deleted_while_a_sweep_that_reuses_it_begins_is_run(tmp_path, template, cluster, monkeypatch):
    shutil.copy(template, tmp_path)
    text = (
        GRID[: GRID.index("cases:")]
        + "cases: [{optimizer.kind: gd, grid: {optimizer.lr: [0.001, 0.002]}}]\n"
        + GRID[GRID.index("record:") :]
    )
    first, *_ = go(tmp_path, cluster, text=text)
    store, planned = open_existing(uri(tmp_path)), make_plan

    def meanwhile(*args, **kwargs):
        if sweeps := [sweep for sweep in list_sweeps(store, "budgets") if sweep.sweep_id == first.sweep_id]:
            # What was found has not been listed yet: nobody knows that it is reused.
            assert remove(store, sweeps, str(tmp_path / "storage"), with_reused=False) == 3
        return planned(*args, **kwargs)

    monkeypatch.setattr("orchestrator.sweeps.submit.make_plan", meanwhile)
    again, notes, runs, *_ = go(tmp_path, cluster, text=text.replace("budgets", "others", 1), reuse_from=("budgets",))
    assert "2 of the trials that were to be reused have been deleted meanwhile: they are run" in notes
    assert (again.trials, again.reused, again.exhausted) == (2, 0, 2)
    assert runs["outcome"].tolist() == ["exhausted"] * 2
    (sweep,) = list_sweeps(store, "others")
    assert (sweep.reused, sweep.status) == (0, "FINISHED")
