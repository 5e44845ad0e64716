"""Commands by their effects: exit codes, messages, what is on standard output, and that nothing is created when something is wrong."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orchestrator.cli.main import COMMANDS
from tests import processes
from tests.cli.commands import GRID, call, run, run_afresh, variables
from tests.forked import Forked
from tests.processes import communicate

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def folder(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "grid.yaml").write_text(GRID)
    return work


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder in which one sweep was submitted with --json, and what that printed."""
    work = tmp_path_factory.mktemp("swept") / "work"
    work.mkdir()
    (work / "grid.yaml").write_text(GRID)
    return work, run_afresh(work, "submit", "grid.yaml", "--json", "--workers", "1")


@pytest.fixture
def copied(swept, folder):
    """A copy of that folder, to which a test may add sweeps that no other test sees."""
    return shutil.copytree(swept[0], folder, dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["submit", "nothing.yaml"], 2, "error: nothing.yaml: cannot be read: No such file or directory"),
        (["submit", "grid.yaml", "--set", "optimizer.lr=-1"], 2, "error: --set optimizer.lr: optimizer.lr: must be above 0.0, not -1"),
        (["submit", "grid.yaml", "--address", "http://127.0.0.1:9"], 3, "nobody takes Ray jobs at http://127.0.0.1:9"),
        (["submit", "grid.yaml", "--address", "ray://127.0.0.1:9"], 3, "nobody takes Ray jobs at http://127.0.0.1:8265"),
        (["submit", "grid.yaml", "--address", "ftp://127.0.0.1:9"], 2, "a Ray address is host:port, auto, local or http://head:8265"),
        (["submit", "grid.yaml", "--detach"], 2, "--detach needs --address http://head:8265"),
        (["submit", "grid.yaml", "--storage", "grid.yaml"], 3, "the storage grid.yaml is not a folder"),
        (["submit", "grid.yaml", "--storage", "s3://me:secret@bucket/x"], 2, "--storage: a URL must not hold credentials"),
        (["submit", "grid.yaml", "--storage", "nowhere://bucket/x"], 2, "--storage nowhere://bucket/x: "),
        (["resume"], 2, "there is no MLflow database"),
        (["cancel"], 2, "there is no MLflow database"),
        (["sync"], 2, "there is no MLflow database"),
        (["logs"], 2, "there is no MLflow database"),
        (["submit", "grid.yaml", "--address", "127.0.0.1:9"], 3, "no Ray cluster answers at 127.0.0.1:9: Connection refused"),
        (["submit", "grid.yaml", "--tracking-uri", "http://127.0.0.1:9"], 3, "127.0.0.1:9"),
        (["submit", "grid.yaml", "--tracking-uri", "sqlite:///grid.yaml/sub/mlflow.db"], 3, "grid.yaml"),
        (["submit", "grid.yaml", "--tracking-uri", "sqlite:///grid.yaml"], 3, "grid.yaml"),
        (["runs"], 2, "error:"),
        (["history"], 2, "error:"),
        (["status"], 2, "error:"),
        (["ui"], 2, "there are no runs yet"),
        (["submit"], 2, "Missing argument 'GRID'"),
        (["sbmit", "grid.yaml"], 2, "No such command 'sbmit'"),
    ],
)
def test_what_is_wrong_is_said_and_creates_nothing(folder, arguments, code, message):
    before = sorted(folder.rglob("*"))
    done = run(folder, *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert sorted(folder.rglob("*")) == before


def test_a_password_is_never_printed_and_one_that_others_can_see_is_said_to_be(folder):
    done = run(folder, "submit", "grid.yaml", "--tracking-uri", "http://me:sesame@127.0.0.1:9")
    assert done.returncode == 3
    assert "sesame" not in done.stderr + done.stdout
    assert done.stderr.count("everyone on this machine can read the password") == 1
    hidden = run(folder, "submit", "grid.yaml", MLFLOW_TRACKING_URI="http://me:sesame@127.0.0.1:9")
    assert (hidden.returncode, "warning" in hidden.stderr, "sesame" in hidden.stderr) == (3, False, False)


def test_submit_json_ends_with_one_object(swept):
    work, done = swept
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    summary = json.loads(line)
    expected = {"sweep_id", "experiment", "trials", "converged", "exhausted", "diverged", "aborted", "failed", "cancelled"}
    assert set(summary) == expected | {"reused", "seconds", "tracking_uri", "parent_run_id"}
    assert (summary["experiment"], summary["trials"], summary["exhausted"]) == ("small", 3, 3)
    assert (work / "mlflow.db").exists()


def test_list_and_status(swept):
    work, done = swept
    sweep = json.loads(done.stdout)["sweep_id"]
    (listed,) = json.loads(call(work, "list", "--json").stdout)
    assert (listed["sweep_id"], listed["trials"], listed["counts"]["exhausted"]) == (sweep, 3, 3)
    assert sweep in call(work, "list").stdout
    for reference in ("latest", "small", sweep, sweep[:4]):
        assert json.loads(call(work, "status", reference, "--json").stdout)["sweep_id"] == sweep
    assert "3 of 3 trials have an outcome: 3 exhausted" in call(work, "status").stdout
    assert call(work, "status", "nosuch").returncode == 2


def test_runs_in_every_format(swept):
    work, _ = swept
    text = call(work, "runs").stdout.splitlines()
    assert len(text) == 5
    assert text[-1].startswith("same for all: outcome exhausted, steps 20")
    frame = pd.read_csv(io.StringIO(call(work, "runs", "--format", "csv").stdout))
    assert list(frame.columns[:5]) == ["trial_id", "run_id", "outcome", "steps", "seconds"]
    assert {"optimizer.lr", "factorization.depth", "seed", "nuclear", "sv_0"} <= set(frame.columns)
    records = json.loads(call(work, "runs", "--format", "json").stdout)
    assert [r["nuclear"] for r in records] == list(frame["nuclear"])
    assert call(work, "runs", "--format", "parquet", "-o", "runs.parquet").returncode == 0
    assert list(pd.read_parquet(work / "runs.parquet")["sv_0"]) == list(frame["sv_0"])
    assert call(work, "runs", "-o", "runs.csv").returncode == 0
    pd.testing.assert_frame_equal(pd.read_csv(work / "runs.csv"), frame)
    assert call(work, "runs", "-o", "runs.tex").returncode == 0
    assert (work / "runs.tex").read_text().count(r" \\") == 4
    assert call(work, "runs", "--format", "markdown").stdout.startswith("| trial\\_id | ")
    assert "give --format" in call(work, "runs", "-o", "runs.txt").stderr


def test_history_in_every_format(swept):
    work, _ = swept
    frame = pd.read_csv(io.StringIO(call(work, "history").stdout))
    assert list(frame.columns) == ["trial_id", "step", "loss", "nuclear", "sv_0", "sv_1", "sv_2"]
    assert frame.groupby("trial_id").step.max().tolist() == [20, 20, 20]
    assert call(work, "history", "--format", "parquet", "-o", "h.parquet").returncode == 0
    pd.testing.assert_frame_equal(pd.read_parquet(work / "h.parquet"), frame, check_dtype=False, rtol=1e-15)
    one = frame.trial_id.iloc[0]
    only = json.loads(call(work, "history", "--trial", one, "--format", "json").stdout)
    assert {row["trial_id"] for row in only} == {one}
    assert call(work, "history", "--trials", one[:-1], "--format", "json").stdout == json.dumps(only) + "\n"
    assert "error: there is no trial 'x'" in call(work, "history", "--trial", "x").stderr
    late = pd.read_csv(io.StringIO(call(work, "history", "--where", "seed == 1", "--when", "step >= 10", "--spec").stdout))
    assert late["step"].min() >= 10
    assert set(late["seed"]) == {1}
    assert late["factorization.depth"].tolist() == [2] * len(late)
    assert call(work, "history", "-o", "no/such/folder/h.csv").returncode == 3


def test_factors_are_taken_out(swept):
    work, _ = swept
    runs = json.loads(call(work, "runs", "--format", "json").stdout)
    done = call(work, "factors", "latest", "-o", "f.npz")
    assert "3 trials, " in done.stderr
    with np.load(work / "f.npz") as found:
        for row in runs:
            layers = [found[f"{row['trial_id']}/W{n + 1}"] for n in range(row["factorization.depth"])]
            product = functools.reduce(lambda product, layer: layer @ product, layers)
            assert np.linalg.norm(product, "nuc") == pytest.approx(row["nuclear"], rel=1e-9)
    one = runs[1]["trial_id"]
    assert call(work, "factors", "latest", one, "-o", "f.npz").returncode == 0
    with np.load(work / "f.npz") as found:
        assert {name.partition("/")[0] for name in found} == {one}
    wrong = call(work, "factors", "latest", "x", "-o", "g.npz")
    assert (wrong.returncode, "error: there is no trial 'x'" in wrong.stderr) == (2, True)
    assert call(work, "factors", "latest", one[:-1], "-o", "f.npz").returncode == 0
    with np.load(work / "f.npz") as found:
        assert {name.partition("/")[0] for name in found} == {one}
    assert call(work, "factors", "latest", "-o", "no/such/folder/f.npz").returncode == 3
    assert not (work / "g.npz").exists()


def test_submitting_again_reuses_everything(copied, cluster_address):
    done = call(copied, "submit", "grid.yaml", "--address", cluster_address, "--workers", "1")
    assert done.returncode == 0
    assert "3 trials (none run, 3 reused)" in done.stdout


def test_dry_run_and_plan_create_nothing(folder):
    for arguments in (["submit", "grid.yaml", "--dry-run"], ["plan", "grid.yaml"], ["plan", "grid.yaml", "--json"], ["schema"]):
        done = run(folder, *arguments)
        assert done.returncode == 0
        assert done.stdout
    assert [p.name for p in folder.rglob("*")] == ["grid.yaml"]
    plan = json.loads(run(folder, "plan", "grid.yaml", "--json", "--set", "seeds=5").stdout)
    assert (plan["trials"], sum(p["trials"] for p in plan["packs"])) == (5, 5)


def test_the_plan_says_what_is_merged_and_records_what_is_defined(folder):
    solved = "{factorization: {kind: nuclear_norm, depth: null}, init: null, optimizer: null}"
    (folder / "grid.yaml").write_text(GRID + f"cases:\n  - {{optimizer.lr: 0.2}}\n  - {solved}\n")
    (folder / "data.csv").write_text("0,1,2.0\n1,1,1.5\n")
    said = call(folder, "plan", "grid.yaml").stdout
    assert "small: 4 trials" in said
    assert "2 more points of the grid are the same trials" in said
    said = json.loads(call(folder, "plan", "grid.yaml", "--json").stdout)
    assert (said["merged"], said["runs"]) == (2, "all")
    text = GRID.replace("target: {rank: 1}, observed: 5", "file: data.csv").replace("measures: [nuclear, singular_values]", "points: 5")
    (folder / "csv.yaml").write_text(text.replace("points: 10, points: 5", "points: 5"))
    assert "records loss, frobenius, effective_rank\n" in call(folder, "plan", "csv.yaml").stdout
    asked = call(folder, "plan", "csv.yaml", "--set", "record.measures=[error]")
    assert (asked.returncode, "error needs the whole ground truth, but only what is observed is given" in asked.stderr) == (2, True)


def test_failed_trials_give_exit_code_1_and_their_traceback(copied, cluster_address):
    import numpy as np

    np.savez(copied / "singular.npz", W1=np.ones((3, 3)), W2=np.ones((3, 3)))
    text = GRID.replace("{kind: gaussian, scale: 0.1}", "{kind: file, file: singular.npz, det_sign: positive}").replace("seeds: 3\n", "")
    (copied / "bad.yaml").write_text(text.replace("name: small", "name: bad"))
    done = call(copied, "submit", "bad.yaml", "--address", cluster_address, "--workers", "1")
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert "determinant of the initial product is zero" in call(copied, "status", "bad").stdout


def closed_pipe():
    """What has no reader any more."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


@pytest.mark.parametrize("arguments", [["schema"], ["history", "--format", "parquet"], ["list"], ["--help"]])
def test_a_reader_that_goes_away_is_no_error(swept, arguments):
    work, _ = swept
    with closed_pipe() as pipe:
        process = Forked(arguments, cwd=work, env=variables(work), stdout=pipe)
        _, errors = communicate(process)
    assert (process.returncode, errors) == (0, "")


def test_a_sweep_ends_as_it_has_ended_whether_anybody_reads_it_or_not(copied, cluster_address):
    text = GRID.replace("name: small", "name: claimed") + "claims: {never: {kind: within, of: nuclear, range: [-2, -1]}}\n"
    (copied / "claimed.yaml").write_text(text)
    for grid, code in (("grid.yaml", 0), ("claimed.yaml", 1)):
        with closed_pipe() as pipe:
            arguments = ["submit", grid, "--address", cluster_address, "--workers", "1"]
            process = Forked(arguments, cwd=copied, env=variables(copied), stdout=pipe, stderr=pipe)
            communicate(process)
        assert process.returncode == code


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("command", "code"), [("history", 0), ("submit nothing.yaml", 2)])
def test_streams_that_are_closed_are_no_error(swept, closed, command, code):
    work, _ = swept
    done = processes.run(["bash", "-c", f"{sys.executable} -m orchestrator.cli.main {command} {closed}"], cwd=work, env=variables(work))
    assert done.returncode == code, done.stderr


def test_doctor_reports_every_check(folder):
    done = run(folder, "doctor", "--json")
    checks = {c["name"]: c for c in json.loads(done.stdout)}
    assert {"versions", "torch", "disk", "mlflow", "ray"} <= set(checks)
    assert checks["ray"]["ok"], checks["ray"]
    assert checks["mlflow"]["ok"]
    assert [p.name for p in folder.rglob("*")] == ["grid.yaml"]
    broken = call(folder, "doctor", "--address", "127.0.0.1:9")
    assert broken.returncode == 3
    assert "FAIL  ray: no Ray cluster answers" in broken.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(tmp_path, command):
    done = run(tmp_path, command, "--help")
    assert done.returncode == 0
    assert "Example:" in done.stdout
