"""A schedule has a deadline, after which all that it has started is ended, and what becomes of schedules is added up."""

from __future__ import annotations

import datetime
import json
import sys
from collections import Counter
from pathlib import Path

import psutil

from tests import ledger
from tests.chaos.__main__ import main
from tests.chaos.record import Line, entered, summary, sums
from tests.chaos.schedule import Report
from tests.chaos.supervised import Order, supervised
from tests.chaos.sweep import Size
from tests.processes import eventually

HANGING = """
setsid sleep 600 &
echo $! > "$1"
echo what was said
sleep 600
"""


def order(folder: Path) -> Order:
    return Order(1, str(folder / "arena"), "", Size(), 1)


def test_a_schedule_that_hangs_is_ended_with_all_that_it_has_started_and_is_a_violation(tmp_path):
    (tmp_path / "arena").mkdir()
    report = supervised(order(tmp_path), 5.0, ["sh", "-c", HANGING, "sh", str(tmp_path / "pid")])
    assert report.violations == ["not over after 5 s"]
    assert report.log[0] == "what was said"
    assert not (tmp_path / "arena").exists()
    pid = int((tmp_path / "pid").read_text())
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_a_schedule_that_dies_is_a_violation(tmp_path):
    report = supervised(order(tmp_path), 60.0, [sys.executable, "-c", "raise SystemExit('why it died')"])
    assert report.violations == ["the schedule's own process has ended with 1"]
    assert report.log == ["why it died"]


def test_the_report_of_a_schedule_comes_back_from_its_process(tmp_path):
    said = Report(1, "x", Counter(worker=2), 3.5, ["broken"], ["a line"])
    report = supervised(order(tmp_path), 60.0, [sys.executable, "-c", f"print('noise'); print({json.dumps(vars(said))!r})"])
    assert report == said


def test_a_line_for_each_schedule_and_a_log_for_each_violation(tmp_path, capsys):
    path = tmp_path / "x" / "chaos.jsonl"
    entered(Report(1, "proxy", Counter(worker=2, trouble=1), 61.4), path)
    entered(Report(2, "clock", Counter(worker=3), 5.0, ["lost", "stray"], ["why", f"in {ledger.ROOT}/tests"]), path)
    entered(Report(3, "clock", Counter(clock=4), 5.0), path)
    lines = ledger.read(path, Line)
    assert [(line.seed, line.kind, line.seconds, line.verdict) for line in lines] == [
        (1, "proxy", 61, "as undisturbed"),
        (2, "clock", 5, "lost; stray"),
        (3, "clock", 5, "as undisturbed"),
    ]
    assert (path.parent / lines[1].log).read_text() == "why\nin ./tests\n"
    assert lines[0].log == ""
    assert str(sums(lines)) == "3 schedules, 10 disturbances (worker 5, clock 4, trouble 1), 1 violations"
    assert str(sums(lines, since="9")) == "0 schedules, 0 disturbances (none), 0 violations"
    assert "since the last violation: 1 schedules, 4 disturbances (clock 4), 0 violations" in list(summary(lines))
    assert main(["--summary", "--ledger", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == list(summary(lines))


def test_a_portion_ends_with_the_time_and_begins_in_any_case(capsys):
    assert list(ledger.in_time([1, 2, 3], 60)) == [1, 2, 3]
    assert list(ledger.in_time([1, 2, 3], 0)) == [1]
    assert capsys.readouterr().out == "the rest is for another portion\n"


def test_what_came_after_a_commit_is_told_by_its_date():
    # When it was written: put on top of others it keeps that date, whatever theirs.
    written = datetime.datetime.fromisoformat(ledger.git("show", "--no-patch", "--format=%aI", "HEAD").strip())
    assert ledger.date_of("HEAD") == written.astimezone(datetime.UTC).isoformat(timespec="seconds")
    assert ledger.date_of("HEAD") <= ledger.now()
