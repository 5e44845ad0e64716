"""The program that tries a GPU, on a CPU that it compares with itself: what is wrong is noticed, and said."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import correctness, fractions, graphs, halving, limits, memory, speed
from benchmarks.gpu.cases import Case, Finding, Report, Verdict, look_at
from benchmarks.gpu.running import SECTIONS, _hear
from benchmarks.gpu.training import TOLERANCE, advance, difference, lanes_of, learning
from tests.contract.references import TRAINED, pairs
from tests.contract.sizes import larger
from tests.processes import run as run_command
from workloads.engines.base import create
from workloads.engines.batched import BatchedEngine
from workloads.engines.costs import calls
from workloads.trial import lane_cost, measurement_bytes

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
FAR = time.monotonic() + 1e6


def gpu(folder, *arguments, **options):
    # PyTorch's compilers leave a folder of theirs.
    environment = {**os.environ, "TMPDIR": str(folder)}
    return run_command([sys.executable, "-m", "benchmarks.gpu", *arguments], cwd=ROOT, env=environment, **options)


def case_of(section, name):
    return next(case for case in section.SECTION.cases(CPU) if case.name == name)


def reported(cases, until=FAR):
    report = Report("some", "Some.", len(cases))
    report.found |= {name: finding for name, finding in look_at(cases, until) if finding is not None}
    return report


def off(engine, by=1e-7):
    """An engine of the class whose parameters are off by a little after each call: a kernel with a wrong constant."""

    class Off(engine):
        def advance(self, lanes, *arguments):
            reached = super().advance(lanes, *arguments)
            with torch.no_grad():
                lanes.params[0].mul_(1 + by)
            return reached

    return Off()


def test_a_section_writes_its_table(tmp_path):
    name = "matrix_completion deep_matrix gd half_sse"
    done = gpu(tmp_path, "correctness", "graphs", "--device", "cpu", "--only", name, "-o", str(tmp_path / "gpu.md"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("correctness: ok (1 ok;")
    assert f"| {name} |" in (tmp_path / "gpu.md").read_text()
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["machine"]["device"] == "cpu"
    section, other = written["sections"]
    assert (other["section"], other["verdict"]) == ("graphs", "skipped")
    assert section["verdict"] == "ok"
    (row,) = section["rows"]
    assert row["values"].keys() == {"autograd", "batched", "fused"}
    assert max(row["values"].values()) < TOLERANCE


@pytest.mark.parametrize(
    ("finding", "cases", "code"),
    [(Finding(), 1, 0), (Finding(wrong="off"), 1, 1), (Finding(), 2, 1), (Finding(skipped="no Warp"), 1, 1)],
)
def test_the_exit_code_says_whether_all_is_as_it_should_be(finding, cases, code, monkeypatch, capsys):
    report = Report("halving", "Some.", cases, {"a": finding})
    monkeypatch.setattr(program, "run", lambda *_: report)
    monkeypatch.setattr(sys, "argv", ["gpu", "halving", "--device", "cpu"])
    assert program.main() == code
    assert f"halving: {report.verdict} (" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert program.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"no CUDA device: PyTorch {torch.__version__} is built ")


@pytest.mark.parametrize("engine", ["batched", "fused", "autograd"])
@pytest.mark.parametrize("name", ["matrix_completion deep_matrix gd half_sse", "matrix_completion deep_matrix float32"])
def test_a_kernel_that_is_a_little_wrong_is_noticed(name, engine, monkeypatch):
    case = case_of(correctness, name)
    assert not case.look().wrong
    wrong = off(type(create(engine)), by=1e-7 if "float32" not in name else 1e-3)
    monkeypatch.setattr(correctness, "create", lambda name: wrong if name == engine else create(name))
    report = reported([case])
    assert report.verdict is Verdict.FAIL
    assert report.found[name].wrong.startswith(f"{engine} is off by ")
    assert ";" not in report.found[name].wrong


@pytest.mark.parametrize(("name", "engine"), [("matrix_completion nuclear_norm", "convex"), ("tensor_completion cp measures", "batched")])
def test_a_solver_or_a_measure_that_is_a_little_wrong_is_noticed(name, engine, monkeypatch):
    case = case_of(correctness, name)
    assert not case.look().wrong
    made = iter([create(engine), off(type(create(engine)))])
    monkeypatch.setattr(correctness, "create", lambda _: next(made))
    assert case.look().wrong


def test_every_kind_that_has_a_reference_is_looked_at():
    names = {case.name for case in correctness.SECTION.cases(CPU)}
    assert {" ".join(kinds) for kinds in TRAINED} <= names
    assert {f"{' '.join(kinds)} measures" for kinds in pairs()} <= names


def test_a_trial_that_goes_on_otherwise_after_memory_ran_out_is_noticed(monkeypatch):
    (case,) = (case for case in halving.SECTION.cases(CPU) if "batched" in case.name)
    found = case.look()
    assert not found.wrong
    assert found.values["times halved"] == 2
    made = iter([create("batched"), off(BatchedEngine)])
    monkeypatch.setattr(halving, "create", lambda _: next(made))
    assert case.look().wrong.startswith("results are off by ")
    monkeypatch.setattr(halving, "SHARE", 1.0)
    monkeypatch.setattr(halving, "create", create)
    assert case.look().wrong == "memory did not run out"


@pytest.mark.parametrize(
    ("share", "wrong"),
    [(0.9, ""), (1.3, "1.30 of what was planned"), (0.2, "0.20 of what was planned")],
    ids=["as planned", "more", "less"],
)
@pytest.mark.parametrize("case", ["matrix_completion-deep_matrix-mse, fused", "matrix_completion-nuclear_norm-half_sse, convex"])
def test_lanes_that_take_other_memory_than_planned_are_noticed(case, share, wrong, monkeypatch):
    """What a GPU would count is made up; lanes are trained on the CPU."""
    monkeypatch.setattr(memory, "ROOM", 1 << 20)
    (one,) = larger(case.partition(",")[0], 1)
    each = lane_cost(one).bytes + measurement_bytes(one)
    counted = iter([1e6, 1e3 + share * each * -(-memory.ROOM // each)])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 1e3)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: next(counted))
    for name in ("reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    # Which looks at all that this process has.
    monkeypatch.setattr(memory.gc, "collect", lambda: 0)
    found = case_of(memory, case).look()
    assert found.wrong == wrong
    assert found.values["taken / planned"] == pytest.approx(share)


@pytest.mark.parametrize("kinds", ["matrix_completion deep_matrix gd", "tensor_completion tucker adam"])
def test_graphs_that_give_other_bits_are_noticed(kinds, monkeypatch):
    """On a CPU both ways are step by step."""
    monkeypatch.setattr(graphs, "TIMED", 1)
    case = case_of(graphs, kinds)
    found = case.look()
    assert not found.wrong
    assert found.values["times faster"] > 0
    monkeypatch.setattr(graphs, "BatchedEngine", lambda graphs=True: off(BatchedEngine, 1e-15) if graphs else BatchedEngine())
    assert case.look().wrong


def test_workers_share_a_device(tmp_path):
    done = gpu(tmp_path, "fractions", "--device", "cpu", "--only", "batched", "-o", str(tmp_path / "gpu.md"))
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((tmp_path / "gpu.json").read_text())["sections"][0]["rows"]
    assert row["values"]["2 at once, trial-steps/s"] > 0
    assert row["values"]["difference"] <= TOLERANCE


@pytest.mark.parametrize(
    ("rate", "factor", "wrong"),
    [(0.5, 1.0, ""), (0.2, 1.0, "4 at once do less than one"), (0.5, 1 + 1e-8, "losses are off by 1e-08")],
)
def test_workers_that_slow_each_other_down_or_compute_something_else_are_noticed(rate, factor, wrong, monkeypatch):
    """What four workers say, each at ``rate`` of what a lone one does."""
    truth = advance(create("batched"), lanes_of(fractions._specs(learning(2)), CPU), fractions.STEPS).loss
    monkeypatch.setattr(fractions, "_together", lambda workers, *_: [(1.0 if workers == 1 else rate, truth * factor)] * workers)
    monkeypatch.setattr(fractions, "WORKERS", {"cuda": (1, 4)})
    assert fractions._shared(learning(2), "fused", torch.device("cuda")).wrong == wrong


@pytest.mark.parametrize(
    ("engine", "lanes", "bound", "seconds"),
    [
        ("batched", 4, "launches", calls(learning(2)) * 1e-6),
        ("batched", 1 << 20, "memory", None),
        ("fused", 1 << 20, "arithmetic", (1 << 20) * 96 / 1e12),
    ],
)
def test_the_limit_of_a_step_is_the_longest_of_what_bounds_it(engine, lanes, bound, seconds, monkeypatch):
    monkeypatch.setattr(limits, "product_rate", lambda *_: 1e12)
    monkeypatch.setattr(limits, "copy_rate", lambda *_: 1e12)
    monkeypatch.setattr(limits, "launch_seconds", lambda _: 1e-6)
    monkeypatch.setattr(limits, "memory_of", lambda _: 1 << 34)
    least, by = limits.limit(learning(2), lanes, engine, torch.device("cuda"))
    assert by == bound
    assert least > 0
    if seconds is not None:
        assert least == pytest.approx(seconds)


def test_an_engine_that_planning_should_have_chosen_is_wrong(monkeypatch):
    rates = {"fused": 10.0, "batched": 21.0}
    monkeypatch.setattr(speed, "engine_rate", lambda _spec, _lanes, engine, *_, **__: (rates[engine], 0.1))
    monkeypatch.setattr(speed, "choose", lambda *_, **__: "fused")
    case = case_of(speed, "matrix 2x2 depth 3, 64 lanes")
    assert case.look().wrong == "planning chose fused: batched, trial-steps/s 21"
    rates["batched"] = 19.0
    assert not case.look().wrong


def test_a_case_that_raises_is_wrong_and_the_next_one_is_looked_at():
    def broken():
        raise RuntimeError("first line\nsecond line")

    report = reported([Case("a", broken), Case("b", lambda: Finding({"x": 1}))])
    assert report.verdict is Verdict.FAIL
    assert report.found == {"a": Finding(wrong="RuntimeError: first line"), "b": Finding({"x": 1})}


def test_nothing_is_looked_at_on_a_device_that_has_failed():
    def failed():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    report = reported([Case("a", failed), Case("b", lambda: Finding())])
    assert list(report.found) == ["a"]
    assert report.verdict is Verdict.FAIL


def test_a_verdict_is_ok_only_if_everything_was_looked_at():
    two = [Case(name, lambda: Finding({"x": 1})) for name in "ab"]
    assert reported(two).verdict is Verdict.OK
    assert reported(two, until=time.monotonic() - 1).verdict is Verdict.UNFINISHED
    assert reported([]).verdict is Verdict.UNFINISHED
    assert reported([Case("a", lambda: Finding(skipped="no Warp"))]).verdict is Verdict.SKIPPED


@pytest.mark.parametrize(("last", "why"), [("alive", "still at b when the time was up"), ("dead", "its process ended at b")])
def test_a_section_that_hangs_or_dies_keeps_what_it_found(last, why):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    for said in (2, ("a", None), ("a", Finding({"x": 1})), ("b", None)):
        sender.send(said)
    if last == "dead":
        sender.close()
    report, told = Report("some", "Some."), []
    report.broken = _hear(receiver, report, time.monotonic() - 1000 if last == "alive" else FAR, told.append)
    assert report.broken == why
    assert report.verdict is Verdict.FAIL
    assert list(report.found) == ["a"]
    assert told == ["some: a"]


def test_a_difference_is_relative_to_the_largest_number():
    assert difference([1.0, 100.0], [1.0 + 1e-8, 100.0]) == pytest.approx(1e-10)
    assert difference([0.0], [0.0]) == 0.0
    for mine in ([np.nan], [np.inf], [1.0, 2.0]):
        assert difference(mine, [1.0]) == np.inf


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", SECTIONS)
def test_a_gpu_does_what_it_has_to(name, tmp_path):
    done = gpu(tmp_path, name, "--minutes", "8", timeout=580)
    assert done.returncode == 0, done.stdout
