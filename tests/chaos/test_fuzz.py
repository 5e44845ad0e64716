"""Malformed grids and data files: each loads, or gives clean errors in bounded time and memory; nothing is created, run or unpickled.

``pytest -m chaos tests/chaos`` makes 10,000 of them; FUZZ_COUNT is another number, FUZZ_SEED the first seed.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import GridError, UsageError
from orchestrator.grid import load_grid, parse_grid
from orchestrator.grid.source import resolve
from orchestrator.planning.pack import Crew
from orchestrator.planning.plan import default_workers, make_plan
from orchestrator.sweeps.submit import recording_of
from tests.chaos import hostile
from tests.cli.commands import as_before, ended
from tests.processes import PATIENCE, run
from workloads.arrays import DataError
from workloads.expressions import Expression, ExpressionError
from workloads.inits.from_file import read_factors
from workloads.problems.data.files import read_problem

FIRST = int(os.environ.get("FUZZ_SEED", "0"))
COUNT = int(os.environ.get("FUZZ_COUNT", "0"))
SECONDS = 60
"""Of the processor, for one input, of which most take milliseconds: what grows out of bounds takes longer on any machine."""
MEGABYTES = 1500
"""What all inputs together may add to the memory of this process."""
EVERY = 10
"""One of so many goes through the command line, too."""


@contextmanager
def bounded() -> Iterator[None]:
    """`TimeoutError` inside what takes too long, also where it waits for something that never comes."""

    def late(*_: object) -> None:
        raise TimeoutError(f"took more than {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, late)
    # The test itself has a deadline, too.
    left, _ = signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    began, start = time.monotonic(), time.process_time()
    try:
        yield
        taken = time.process_time() - start
        assert taken < SECONDS, f"took {taken:.1f} s of the processor"
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 0.01) if left else 0)


def listing(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder))


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def check_lines(error: GridError, path: Path) -> None:
    assert error.exit_code == 2
    assert error.mistakes
    assert str(error).splitlines() == error.mistakes
    for line in error.mistakes:
        assert line.startswith((f"{path}:", "--set ")), line
        assert len(line.partition(": ")[2]) > 5, line
        assert line.isprintable(), line
        assert len(line) < 2000, line


def outcome(case: hostile.Malformed) -> str:
    """Load the grid and plan what loads."""
    try:
        grid = load_grid(case.path, case.overrides)
    except GridError as error:
        check_lines(error, case.path)
        return "rejected"
    assert grid.trials
    assert len({trial.trial_id for trial in grid.trials}) == len(grid.trials)
    try:
        plan = make_plan(grid.trials, recording_of(grid), grid.resources.engine, [Crew(default_workers(grid.resources.cpus))])
    except UsageError as error:
        assert len(str(error).splitlines()) == 1
        return "rejected"
    assert plan.peak_bytes > 0
    return "accepted"


def commanded(case: hostile.Malformed, command: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error of the program itself."""
    settings = [text for override in case.overrides for text in ("--set", override)]
    capsys.readouterr()
    with as_before():
        code = ended([*command, *settings, "--", str(case.path)])
    return code, capsys.readouterr().err


def fuzz(seeds: range, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    failed: list[str] = []
    slowest = (0.0, "")
    began, memory_before = time.perf_counter(), memory()
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        case = hostile.malformed(random.Random(seed), folder)
        before = listing(folder)
        start = time.perf_counter()
        try:
            with bounded():
                found = outcome(case)
            if seed % EVERY == 0:
                for command in (["plan"], ["submit", "--dry-run"]):
                    with bounded():
                        code, err = commanded(case, command, capsys)
                    assert code == (2 if found == "rejected" else 0), err
                    assert all(line.startswith("error: ") for line in err.splitlines()), err
                    assert bool(err) == (found == "rejected")
                counts["commanded"] += 1
            assert listing(folder) == before
            assert listing(Path()) == []
            counts[found] += 1
        except Exception as error:
            counts["failed"] += 1
            failed.append(f"seed {seed} ({case.what}): {type(error).__name__}: {str(error)[:300]}")
        slowest = max(slowest, (time.perf_counter() - start, f"seed {seed} ({case.what})"))
        if seed % 500 == 0:
            gc.collect()
    grown = memory() - memory_before
    with capsys.disabled():
        sys.stdout.write(
            f"\n{dict(counts)} in {time.perf_counter() - began:.0f} s, {grown:.0f} MiB more; slowest {slowest[0]:.1f} s: {slowest[1]}\n"
        )
    assert not failed, f"{len(failed)} of {len(seeds)}:\n" + "\n".join(failed[:100])
    assert grown < MEGABYTES
    return counts


@pytest.fixture(autouse=True)
def _empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, where whatever is made by mistake is seen."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)


def test_malformed_inputs_give_clean_errors(tmp_path, capsys):
    counts = fuzz(range(FIRST, FIRST + (COUNT or 250)), tmp_path, capsys)
    assert counts["rejected"] > counts["accepted"]


@pytest.mark.chaos
def test_ten_thousand_malformed_inputs_give_clean_errors(tmp_path, capsys):
    counts = fuzz(range(FIRST, FIRST + (COUNT or 10_000)), tmp_path, capsys)
    assert counts["rejected"] > counts["accepted"]


choices = st.randoms(use_true_random=False)
"""Random numbers that hypothesis chooses, and shrinks."""
quietly = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)


@quietly
@given(choices)
def test_any_change_of_a_shipped_grid_loads_or_is_refused(tmp_path_factory, choice):
    folder = tmp_path_factory.mktemp("grid")
    case = hostile.malformed(choice, folder)
    before = listing(folder)
    with bounded():
        outcome(case)
    assert listing(folder) == before
    assert listing(Path()) == []


@quietly
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_any_text_is_a_grid_or_refused(text):
    with bounded():
        try:
            parse_grid(text, "g.yaml")
        except GridError as error:
            check_lines(error, Path("g.yaml"))


@quietly
@given(st.text(max_size=60))
def test_any_scalar_has_a_value(text):
    assert isinstance(resolve(text), str | int | float | None)


tokens = st.sampled_from(["loss", "det", "1", "1e400", "'a'", "\"b\"", "+", "-", "*", "**", "/", "<", "==", "in", "not", "and", "or", "(", ")", "[", "]", ",", "abs", "min", "first", "true", "inf", "10" * 200, " "])  # fmt: skip


@settings(quietly, max_examples=600)
@given(st.lists(tokens, max_size=14).map(" ".join) | st.sampled_from(hostile.EXPRESSIONS) | st.text(max_size=40))
def test_any_expression_has_a_value_or_is_refused(text):
    import numpy as np

    try:
        expression = Expression(text)
    except ExpressionError as error:
        assert str(error)
        return
    columns = {"numbers": np.array([0.5, np.nan, 3.0]), "words": np.array(["a", None, "b"], dtype=object), "none": np.empty(0)}
    for column in columns.values():
        with bounded():
            values = dict.fromkeys(expression.names, column)
            shape = np.broadcast_shapes(np.shape(expression.evaluate(values)), column.shape)
            assert shape == column.shape
            if expression.is_condition:
                assert np.broadcast_shapes(expression.margin(values).shape, column.shape) == column.shape


@quietly
@given(st.binary(max_size=300), st.sampled_from(["d.npz", "d.csv", "d.txt"]), st.booleans())
def test_any_bytes_are_data_or_refused(content, name, sensing):
    for read in (lambda: read_problem(name, content, (3, 3), sensing), lambda: read_factors(name, content, {"W1": (3, 3)})):
        try:
            read()
        except DataError as error:
            assert str(error).startswith(name)


@pytest.mark.parametrize("what", hostile.SPECIAL)
@pytest.mark.parametrize("role", ["grid", "data.npz", "data.csv"])
def test_what_is_no_file_neither_hangs_nor_fills_the_memory(tmp_path, what, role):
    grid = tmp_path / "g.yaml"
    hostile.SPECIAL[what](grid if role == "grid" else tmp_path / role)
    if role != "grid":
        problem = f"{{kind: matrix_completion, shape: [3, 3], file: {role}}}"
        grid.write_text(
            f"name: g\nfixed:\n  problem: {problem}\n  factorization: {{kind: linear}}\n  optimizer: {{kind: gd, lr: 1}}\n  stop: {{steps: 1}}\n"
        )
    with bounded(), pytest.raises(GridError) as caught:
        load_grid(grid)
    check_lines(caught.value, grid)


@pytest.mark.parametrize("seed", range(3))
def test_the_program_prints_no_traceback(tmp_path, seed):
    case = hostile.malformed(random.Random(seed), tmp_path)
    case.path.unlink(missing_ok=True)
    case.path.write_bytes(b'name: \x1b[2J\nfixed: {"a\\nb": 1, \xff: 2}\n' if seed else b'? "a\\nTraceback"\n: 1\n')
    done = run(
        [sys.executable, "-m", "orchestrator.cli.main", ["plan", "submit"][seed % 2], str(case.path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 2
    assert all(line.startswith("error: ") for line in done.stderr.splitlines()), done.stderr
    assert listing(Path()) == []
