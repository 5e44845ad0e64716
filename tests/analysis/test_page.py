"""The page of a sweep: its numbers are those of the tables, it needs no network, and nothing that it quotes becomes a part of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from orchestrator.analysis.page.document import document
from orchestrator.analysis.page.trials import table_of
from orchestrator.analysis.page.writing import write_page
from orchestrator.analysis.results import Results
from orchestrator.storage.detail import Detail
from orchestrator.tracking import layout
from orchestrator.tracking.read.queries import find_finished, find_sweep
from orchestrator.tracking.read.tables import load_runs
from orchestrator.tracking.store import Store
from orchestrator.tracking.write.annotation import annotate, rename
from orchestrator.tracking.write.parent import SweepInfo
from orchestrator.tracking.write.writer import SweepWriter
from tests.analysis.made import results
from workloads.training.results import TrialResult
from workloads.training.trial_state import Outcome

MakeSweep = Callable[..., SweepInfo]
MakeResult = Callable[..., TrialResult]
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--"
GRID = """\
# yaml-language-server: $schema=grid.schema.json
# Does the norm grow?
#  A <second> line.
name: x
# Not this one.
figures:
  losses: {kind: trajectories, y: loss, title: "%s"}
  odd: {kind: trajectories, y: nothing}
claims:
  grows: {kind: monotone, of: nuclear, direction: rising, says: "the norm grows %s"}
  small: {kind: within, of: loss, range: [null, 1e9], required: false}
"""
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
VOID = {"meta", "input", "img", "br"}


class Page(HTMLParser):
    """A page as a browser reads it: texts by the id of the section that they are in, rows of tables, scripts, what it would load."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.texts: dict[str, str] = {}
        self.rows: dict[str, list[list[str]]] = {}
        self.scripts: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.feed(page.decode())
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.loaded += [given[name] for name in ("src", "href") if name in given]
        if tag not in VOID:
            self.open.append((tag, given.get("id", "")))
        if tag == "script":
            self.scripts.append((given.get("type", ""), ""))
        if tag == "tr":
            self.rows.setdefault(self.section, []).append([])
        if tag in ("td", "th"):
            self.rows[self.section][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tags = [tag for tag, _ in self.open]
        if "script" in tags:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif "td" in tags or "th" in tags:
            self.rows[self.section][-1][-1] += data
        for _, name in self.open:
            if name:
                self.texts[name] = self.texts.get(name, "") + data

    @property
    def section(self):
        return next((name for tag, name in self.open if tag == "section"), "")


def swept(store: Store, sweep: SweepInfo, *ended: TrialResult) -> Page:
    with SweepWriter(store, sweep) as writer:
        writer.add("pack-0", ended)
    return page_of(store, sweep)


def page_of(store: Store, sweep: SweepInfo) -> Page:
    return Page(document(store, find_sweep(store, sweep.sweep_id)))


def test_what_is_quoted_stays_text(local: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    sweep = replace(make_sweep("a b c"), grid_text=GRID % (EVIL, EVIL), tags={layout.HOST: EVIL, layout.OVERRIDES: json.dumps([EVIL])})
    plain = page_of_plain(local, make_sweep, make_result)
    swept(local, sweep, make_result("a"), make_result("b"), make_result("c", Outcome.FAILED, 0, error=f"Traceback\n{EVIL}\n"))
    found = find_sweep(local, sweep.sweep_id)
    annotate(local, found, EVIL)
    rename(local, found, EVIL)
    page = page_of(local, sweep)
    # One is the chart, one Vega, one the page's own.
    assert [kind for kind, _ in page.scripts] == ["application/json", "", ""] == [kind for kind, _ in plain.scripts]
    assert "img" not in page.tags
    assert json.loads(page.scripts[0][1])["title"]["text"].startswith("</script><script>alert(1)")
    for section in ("asked", "grid", "note", "verdicts", "failures", "origin", "again"):
        assert EVIL in page.texts[section], section
    assert "window.vegaEmbed=" in page.scripts[1][1]


def page_of_plain(store: Store, make_sweep: MakeSweep, make_result: MakeResult) -> Page:
    return swept(store, replace(make_sweep("a b"), grid_text=GRID % ("title", "")), make_result("a"), make_result("b"))


@pytest.mark.parametrize("runs", ["all", "sampled", "none"])
def test_numbers_are_those_of_the_tables(local: Store, make_sweep: MakeSweep, make_result: MakeResult, runs: str) -> None:
    sweep = replace(make_sweep("a b c d"), grid_text=GRID % ("title", ""), detail=Detail(runs, 4))
    ended = [make_result("a"), make_result("b", Outcome.EXHAUSTED), make_result("c", Outcome.DIVERGED)]
    page = swept(local, sweep, *ended, make_result("d", Outcome.FAILED, 0, error="Traceback\nValueError: no & never\n"))
    frame = load_runs(local, find_sweep(local, sweep.sweep_id))
    header, *rows = page.rows["trials"]
    assert [row[header.index("trial_id")] for row in rows] == list(frame["trial_id"])
    assert [row[header.index("outcome")] for row in rows] == list(frame["outcome"])
    assert [row[header.index("nuclear")] for row in rows] == [f"{value:.6g}" for value in frame["nuclear"][:3]] + [""]
    assert "run_id" not in header
    assert "factorization.depth 3" in page.texts["trials"]
    assert page.texts["counts"].split() == ["4", "trials", "1", "converged", "1", "exhausted", "1", "diverged", "1", "failed"]
    assert page.rows["failures"][1] == ["1", "ValueError: no & never", "d"]
    assert page.texts["state"] == "complete"
    assert page.texts["asked"].split("the grid file")[0].split("\n")[2:5] == ["Does the norm grow?", "A <second> line.", ""]
    assert "Not this one" not in page.texts["asked"].split("the grid file")[0]
    assert page.texts["grid"] == sweep.grid_text
    assert "the norm grows" in page.texts["verdicts"]
    assert "not drawn: the runs have no nothing" in page.texts["figures"]
    assert all(not place.startswith(("http", "/", "file")) for place in page.loaded)


def test_a_sweep_that_runs_says_so_and_needs_no_questions(local: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    sweep = make_sweep("a b")
    with SweepWriter(local, sweep) as writer:
        page = page_of(local, sweep)
        assert page.texts["state"].startswith("not at its end: 0 of 2 trials had an outcome on 20")
        assert page.texts["counts"].split() == ["2", "trials", "2", "without", "an", "outcome"]
        writer.add("pack-0", [make_result("a")])
        writer.close("KILLED")
    page = page_of(local, sweep)
    assert page.texts["state"] == "interrupted: 1 of 2 trials has an outcome"
    assert {"figures", "verdicts", "failures", "note"}.isdisjoint(page.texts)
    assert [kind for kind, _ in page.scripts] == [""]


def test_reused_trials_are_there_and_whose_they_are(local: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    first = make_sweep("a b")
    swept(local, first, make_result("a"), make_result("b"))
    found = find_sweep(local, first.sweep_id)
    there = find_finished(local, first.experiment, {"a", "b"}, first.record)
    second = make_sweep("a b c", reused=there)
    page = swept(local, second, make_result("c"))
    assert [row[0] for row in page.rows["trials"][1:]] == ["a", "b", "c"]
    assert f"2 trials are reused from sweep {first.sweep_id} of {first.experiment} (run {found.parent_run_id})" in page.texts["origin"]
    assert page.texts["counts"].split() == ["3", "trials", "3", "converged", "2", "reused"]


def test_many_trials_are_taken_together_over_seeds() -> None:
    made = results([{"factorization.depth": depth, "seed": seed, "error": depth + seed / 10} for depth in (2, 3) for seed in range(3)])
    shown = table_of(made, most=5)
    assert shown.notes[0] == "of 6 trials a row for each setting, over its seeds: `orchestrate runs` lists every trial"
    assert [row[shown.header.index("error")] for row in shown.rows] == ["2.1 [2.05, 2.15]", "3.1 [3.05, 3.15]"]
    assert len(table_of(made, most=6).rows) == 6


def test_it_goes_beside_the_figures_and_into_mlflow_or_where_it_is_told_to(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep("a")
    swept(local, sweep, make_result("a"))
    found = find_sweep(local, sweep.sweep_id)
    monkeypatch.chdir(tmp_path)
    elsewhere = write_page(local, found, tmp_path / "here.html")
    assert layout.REPORT_FILE not in {file.path for file in local.client.list_artifacts(found.parent_run_id)}
    beside = write_page(local, found, None)
    assert beside == Path("figures", sweep.experiment.replace(" ", "-"), sweep.sweep_id, "report.html")
    # Nothing in it depends on when it is written.
    assert beside.read_bytes() == elsewhere.read_bytes() == local.read(found.parent_run_id, layout.REPORT_FILE)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_readers_sort_and_filter(local: Store, make_sweep: MakeSweep, make_result: MakeResult, tmp_path: Path) -> None:
    sweep = make_sweep("a b c d")
    ended = [make_result(name) for name in "abc"]
    swept(local, sweep, *ended, make_result("d", Outcome.FAILED, 0, error="no"))
    found = find_sweep(local, sweep.sweep_id)
    frame = Results.load(local, [found]).runs
    script = """<script>
    const shown = () => [...body.rows].filter((row) => !row.hidden).map((row) => row.cells[0].textContent).join("");
    const click = (name) => heads[names.indexOf(name)].firstElementChild.click();
    const write = (text) => { filter.value = text; filter.dispatchEvent(new Event("input")); };
    const told = [];
    for (const name of ["nuclear", "nuclear", "outcome", "trial_id"]) { click(name); told.push(shown()); }
    for (const text of ["seed>=1 seed<3", "FAILED", "outcome=converged seed!=0", "nuclear<1e9", ""]) { write(text); told.push(shown()); }
    document.title = told.join(" ");
    </script></body>"""
    path = tmp_path / "page.html"
    path.write_text(document(local, found).decode().replace("</body>", script))
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/browser", "--dump-dom", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    rising = "".join(frame.sort_values("nuclear")["trial_id"][:3])
    # What is missing comes last, and what is equal in the order of the grid.
    expected = [f"{rising}d", f"{rising[::-1]}d", "abcd", "abcd", "bc", "d", "bc", "abc", "abcd"]
    assert f"<title>{' '.join(expected)}</title>" in done.stdout
