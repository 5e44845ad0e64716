"""submit, figures, verify and compare on a small sweep: exit codes, files on disk and in MLflow, and what is said."""

from __future__ import annotations

import io
import json
import shutil

import mlflow
import pandas as pd
import pytest

import orchestrator
from tests.cli.commands import call, run

GRID = """\
name: asked
fixed:
  problem: {kind: matrix_completion, shape: [3, 3], target: {rank: 1}, observed: 6}
  factorization: {kind: deep_matrix}
  init: {kind: gaussian, scale: 0.3}
  optimizer: {kind: gd, lr: 0.1}
  stop: {steps: 100}
cases:
  - {factorization.depth: 2}
  - {factorization.depth: 3}
  - {factorization.kind: nuclear_norm, init: null, optimizer: null}
seeds: 3
record: {points: 10, measures: [nuclear, error, singular_values]}
figures:
  losses: {kind: trajectories, y: loss, color: factorization.depth, log: [x, y]}
  errors: {kind: medians, x: factorization.kind, y: error}
  enough: {kind: threshold, x: factorization.depth, of: seed, when: rate(error < 10) >= 0.5}
claims:
  falls: {kind: monotone, of: loss, direction: falling}
  least:
    kind: contrast
    says: the convex baseline has the least nuclear norm
    of: nuclear
    group: factorization.kind == 'nuclear_norm'
    against: loss < 1e-6
    direction: lower
    interval: false
    required: false
"""


@pytest.fixture(scope="module")
def submitted(tmp_path_factory, template, cluster_address):
    """A folder in which a sweep with figures and claims was submitted, what that printed, and the files that it left in ``figures``."""
    work = tmp_path_factory.mktemp("asked") / "work"
    work.mkdir()
    (work / "grid.yaml").write_text(GRID)
    shutil.copy(template, work)
    done = run(work, "submit", "grid.yaml", "--json", "--address", cluster_address, "--workers", "1")
    return work, done, {str(path.relative_to(work / "figures")) for path in (work / "figures").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def asked(submitted):
    """The folder, and what was printed."""
    return submitted[:2]


def artifacts(work, run_id, path=""):
    client = mlflow.MlflowClient(f"sqlite:///{work}/mlflow.db")
    return {item.path for item in client.list_artifacts(run_id, path or None)}


def files_of(work):
    return {str(path.relative_to(work)) for path in work.rglob("*") if path.is_file()}


def test_submit_draws_and_checks(submitted):
    work, done, drawn = submitted
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert "holds  falls: loss is falling along step" in done.stderr
    expected = {f"{name}.{form}" for name in ("losses", "errors", "enough") for form in ("html", "png", "svg", "pdf")}
    expected |= {"enough.csv", "enough.tex"}
    assert drawn == {f"asked/{summary['sweep_id']}/{name}" for name in expected}
    assert artifacts(work, summary["parent_run_id"], "figures") == {f"figures/{name}" for name in expected}
    assert "claims.json" in artifacts(work, summary["parent_run_id"])
    metrics = mlflow.MlflowClient(f"sqlite:///{work}/mlflow.db").get_run(summary["parent_run_id"]).data.metrics
    assert metrics["claims_broken"] == 0
    assert metrics["claims_held"] in (1, 2)


def test_verify_says_what_holds_and_who_speaks_against_it(asked):
    work, _ = asked
    done = call(work, "verify", "asked", "--json")
    assert done.returncode == 0, done.stderr
    falls, least = json.loads(done.stdout)
    assert (falls["holds"], falls["trials"]) == (True, 7)
    assert {"trial_id", "run_id", "step", "shows"} <= set(falls["worst"])
    assert least["required"] is False
    broken = call(work, "verify", "asked", "--claim", "{kind: within, of: error, range: [null, 1e-9], by: factorization.kind}")
    assert broken.returncode == 1
    assert "BROKEN  claim: the median of error is at most 1e-09" in broken.stdout
    runs = pd.read_csv(io.StringIO(call(work, "runs", "asked", "--format", "csv").stdout))
    assert any(run_id in broken.stdout for run_id in runs.run_id)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "asked", "--claim", "{kind: within, of: eror, range: [0, 1]}"], "error: the runs have no eror; did you mean error"),
        (["verify", "asked", "--claim", "{kind: within, of: error}"], "claims.claim.range: is missing"),
        (["verify", "asked", "--claim", "{kind: wthin}"], "unknown kind 'wthin'; did you mean within?"),
        (["figures", "asked", "--only", "loses"], "error: there is no figure 'loses'; there are losses, errors, enough"),
        (["figures", "asked", "--draw", "{kind: points, x: error}"], "figures.figure.y: is missing"),
        (["figures", "asked", "--draw", "{", "--format", "png"], "is not valid YAML"),
        (["compare", "asked", "nothing"], "error: there is no sweep or experiment 'nothing'"),
        (["compare", "asked", "asked", "--where", "error"], "error: where: 'error' is a number, not a condition"),
        (["compare", "asked", "asked", "--where", "eror < 1"], "error: the runs have no eror; did you mean error"),
        (["runs", "asked", "--where", "eror < 1"], "error: the runs have no eror; did you mean error?"),
        (["runs", "asked", "--where", "outcome == no"], "error: the runs have no no (text is in quotes: 'no'); `orchestrate runs`"),
        (["runs", "asked", "--columns", "eror"], "error: the runs have no eror; did you mean error?"),
        (["runs", "asked", "--by", "depth"], "error: the runs have no depth; did you mean factorization.depth?"),
        (["runs", "asked", "--by", "seed", "--statistic", "meen"], "error: there is no statistic 'meen'; did you mean mean?"),
        (["runs", "asked", "--statistic", "mean"], "Error: --statistic goes with --by"),
        (["compare", "asked", "asked", "--measure", "rank"], "error: rank is not in both sweeps; in both are"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(asked, arguments, message):
    done = call(asked[0], *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_runs_are_picked_sorted_and_taken_together(asked):
    work, _ = asked
    picked = call(
        work, "runs", "--where", "factorization.depth == 3", "--sort", "-error", "--columns", "seed,error", "--columns", "abs(sv_0)"
    )
    lines = picked.stdout.splitlines()
    assert (lines[0].split(), len(lines)) == (["seed", "error", "abs(sv_0)"], 4)
    errors = [float(line.split()[1]) for line in lines[1:]]
    assert errors == sorted(errors, reverse=True)
    by = ("--by", "factorization.kind,factorization.depth", "--columns", "error,rate(error < 10)", "--statistic", "mean+-std")
    frame = pd.read_csv(io.StringIO(call(work, "runs", *by, "--format", "csv").stdout))
    assert frame["trials"].tolist() == [3, 3, 1]
    runs = pd.read_csv(io.StringIO(call(work, "runs", "--format", "csv").stdout))
    deep = runs[runs["factorization.depth"] == 3]["error"]
    assert frame.loc[1, ["error_mean", "error_std"]].tolist() == pytest.approx([deep.mean(), deep.std()])
    assert frame["rate(error < 10)"].tolist() == [1.0, 1.0, 1.0]
    table = call(work, "runs", *by).stdout
    assert "means ± standard deviations over trials\nsame for all: diverged 0, failed 0\n" in table


def test_measures_that_were_not_recorded(asked):
    work, _ = asked
    runs = pd.read_csv(io.StringIO(call(work, "runs", "asked", "--format", "csv").stdout)).set_index("trial_id")
    measured = pd.read_csv(io.StringIO(call(work, "measure", "asked", "schatten_1", "nuclear", "--format", "csv").stdout)).set_index(
        "trial_id"
    )
    assert list(measured.columns) == ["factorization.kind", "factorization.depth", "seed", "schatten_1", "nuclear"]
    # Of trials of every depth and the baseline, whose factors differ.
    pd.testing.assert_series_equal(measured["nuclear"], runs["nuclear"], rtol=1e-12)
    pd.testing.assert_series_equal(measured["schatten_1"], runs["nuclear"], check_names=False)
    deep = call(
        work, "measure", "asked", "stable_rank", "--where", "factorization.depth == 3", "--by", "factorization.depth", "--format", "json"
    )
    (group,) = json.loads(deep.stdout)
    assert (group["trials"], 1 <= group["stable_rank_median"] <= 3) == (3, True)
    assert list(group)[-3:] == ["stable_rank_median", "stable_rank_q25", "stable_rank_q75"]
    assert "unknown measure stabel_rank; did you mean stable_rank?" in call(work, "measure", "asked", "stabel_rank").stderr


def test_runs_of_several_sweeps_say_whose_they_are_and_are_there_once(asked):
    work, done = asked
    sweep = json.loads(done.stdout.splitlines()[-1])["sweep_id"]
    twice = json.loads(call(work, "runs", "asked", sweep, "--format", "json").stdout)
    assert [row["sweep"] for row in twice] == [sweep] * 7
    assert "sweep" not in json.loads(call(work, "runs", "asked", "--format", "json").stdout)[0]


def test_figures_again_elsewhere_and_on_the_spot(asked):
    work, _ = asked
    done = call(work, "figures", "asked", "--only", "losses", "--format", "png", "-o", "paper/now")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (work / "paper" / "now").iterdir()] == ["losses.png"]
    parent = json.loads(asked[1].stdout.splitlines()[-1])["parent_run_id"]
    before = files_of(work)
    wide = GRID.replace("x: factorization.depth, of: seed", "x: factorization.kind, of: seed").replace("enough:", "elsewhere:")
    (work / "wide.yaml").write_text(wide)
    done = call(
        work, "figures", "asked", "--grid", "wide.yaml", "--only", "elsewhere", "--format", "tex", "--format", "csv", "-o", "paper/there"
    )
    assert done.stdout.splitlines() == ["drawn: paper/there/elsewhere.csv (and tex)"]
    assert files_of(work) - before == {"wide.yaml", "paper/there/elsewhere.csv", "paper/there/elsewhere.tex"}
    assert not {name for name in artifacts(work, parent, "figures") if "elsewhere" in name}, "it was told where to"
    done = call(work, "figures", "--draw", "{kind: points, x: nuclear, y: error}", "--format", "svg", "-o", "paper")
    assert (work / "paper" / "figure.svg").read_text().startswith("<svg"), done.stderr
    nothing = call(work, "figures", "asked", "--draw", "{kind: points, x: nuclear, y: error, where: seed > 99}", "-o", "paper/none")
    assert nothing.returncode == 1
    assert "not drawn: figure: no trial is concerned" in nothing.stderr


def test_a_report_is_one_file_with_all_that_was_asked(asked, tmp_path):
    work, done = asked
    summary = json.loads(done.stdout.splitlines()[-1])
    written = call(work, "report", "asked", "-o", str(tmp_path / "asked.html"))
    assert written.returncode == 0, written.stderr
    page = (tmp_path / "asked.html").read_text()
    assert page.count('class="wide chart"') == 3
    # The threshold has its numbers beside it.
    assert "<th>threshold</th>" in page.split("<figcaption>enough")[1].split("</figure>")[0]
    assert "the convex baseline has the least nuclear norm" in page
    assert f"orchestrate export {summary['sweep_id']}" in page
    assert "report.html" not in artifacts(work, summary["parent_run_id"])
    assert call(work, "report").stdout.startswith(f"written: figures/asked/{summary['sweep_id']}/report.html (")
    assert "report.html" in artifacts(work, summary["parent_run_id"])
    assert call(work, "report", "nowhere").returncode == 2


def test_a_broken_claim_is_exit_code_1_of_submit_and_reused_trials_count(asked, tmp_path, cluster_address):
    # A copy: other tests ask for the newest sweep.
    work = shutil.copytree(asked[0], tmp_path / "work")
    claims = GRID.replace(
        "  falls: {kind: monotone, of: loss, direction: falling}", "  falls: {kind: monotone, of: loss, direction: rising}"
    )
    (work / "again.yaml").write_text(claims.replace("seeds: 3", "seeds: 4"))
    done = call(work, "submit", "again.yaml", "--address", cluster_address, "--workers", "1")
    assert done.returncode == 1, done.stderr
    assert "BROKEN  falls" in done.stdout
    assert "rests on 9 trials" in done.stdout
    compared = call(work, "compare", "asked", json.loads(asked[1].stdout.splitlines()[-1])["sweep_id"], "--figure", "moved.svg")
    assert compared.returncode == 0, compared.stderr
    assert (work / "moved.svg").read_text().startswith("<svg")
    assert "matched: 7 trials of A" in compared.stdout
    assert "7 runs are in both sweeps: between those nothing can have moved" in compared.stdout
    only = call(work, "compare", "asked", "asked", "--where", "factorization.depth == 3", "--measure", "error")
    assert "matched: 4 trials of A" in only.stdout
    assert "same runs" in only.stdout
    table = call(work, "compare", "asked", "asked", "--format", "json", "--measure", "error")
    assert {(row["measure"], row["moved"], row["median"]) for row in json.loads(table.stdout)} == {("error", False, 0.0)}


def test_what_was_deleted_is_said_everywhere_and_verdicts_are_withheld(asked, tmp_path):
    work = shutil.copytree(asked[0], tmp_path / "work")
    uri = f"sqlite:///{work}/mlflow.db"
    runs = json.loads(call(work, "runs", "asked", "--format", "json").stdout)
    mlflow.MlflowClient(uri).delete_run(next(run["run_id"] for run in runs if run["factorization.depth"] == 2))
    lost = "the runs of 1 of 7 trials were deleted in MLflow"
    said = {
        ("runs", "asked"): 0,
        ("history", "asked"): 0,
        ("figures", "asked", "--only", "errors", "--format", "svg"): 0,
        ("verify", "asked"): 1,
        ("compare", "asked", "asked"): 0,
    }
    for command, code in said.items():
        done = call(work, *command)
        assert done.returncode == code, done.stderr
        assert lost in done.stderr, command
        assert "not ended" not in done.stderr
    assert lost in call(work, "status", "asked").stdout
    assert json.loads(call(work, "status", "asked", "--json").stdout)["deleted"] == 1
    assert "deleted" in [run["outcome"] for run in json.loads(call(work, "runs", "asked", "--format", "json").stdout)]
    verdicts = call(work, "verify", "asked")
    assert "WITHHELD  falls: loss is falling along step" in verdicts.stdout
    assert "withheld  least: " in verdicts.stdout
    assert [(v["holds"], v["verdict"]) for v in json.loads(call(work, "verify", "asked", "--json").stdout)] == [(None, "withheld")] * 2
    other = call(work, "verify", "asked", "--claim", "{kind: bound, that: loss >= 0, where: factorization.depth == 3}")
    assert (other.returncode, "holds  claim" in other.stdout) == (0, True)
    for load in (orchestrator.load_runs, orchestrator.load_history):
        with pytest.warns(UserWarning, match=lost):
            load("asked", tracking_uri=uri)
