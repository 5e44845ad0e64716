"""What holds for all tests: signals are heard, deadlines end what tests have started, and nothing is left behind."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from tests import patient, processes  # noqa: F401, for what the first does
from tests.forked import end_own_fork_server
from tests.leavings import Run, use_own_folder
from tests.servers import MlflowServer
from tests.sharing import end_shared, made_schema, made_template, shared

# Ray's workers give way to every other process of the machine. Beside a second process of tests they would get next to nothing.
os.environ.setdefault("RAY_worker_niceness", "0")
# The clusters that tests share let nobody in without this user's token. An embedded Ray does the same.
os.environ.setdefault("RAY_AUTH_MODE", "token")
# As many processes as cores are busy: threads of theirs would only wait for each other.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
# The workers of clusters, which are no children of the drivers that join them, find the tests.
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
processes.hear_signals()

GRACE = 30.0
"""Seconds after its deadline in which a test has to be at its end; it may wait where no signal is heard, for something that never comes."""
LONG = {
    *("test_engines", "test_kinds", "test_share", "test_tracking_reading", "test_pausing", "test_traced", "test_remove", "test_fuzz"),
    *("test_resume", "test_tracking_writer", "test_tracking_store", "test_hierarchical"),
}
"""Files that take a core for a quarter of a minute or more, without a cluster."""
RUN = pytest.StashKey[Run]()
BEGAN = pytest.StashKey[float]()
LEFT = pytest.StashKey[list[str]]()


class Watch:
    """What is to be done if a test does not end: by one thread, since one that is started for each test takes longer than most tests."""

    EVERY = 0.5
    """Seconds between looks at what is due."""

    def __init__(self) -> None:
        self._lock, self._due = threading.Lock(), dict[Callable[[], object], float]()
        self._thread: threading.Thread | None = None

    def expect(self, due: dict[Callable[[], object], float]) -> None:
        """Call each function in so many seconds, in place of what was due before. None waits for another."""
        with self._lock:
            self._due = {function: time.monotonic() + seconds for function, seconds in due.items()}
            if due and self._thread is None:
                self._thread = threading.Thread(target=self._look, daemon=True)
                self._thread.start()

    def _look(self) -> None:
        while True:
            time.sleep(self.EVERY)
            with self._lock:
                late = [function for function, when in self._due.items() if when < time.monotonic()]
                for function in late:
                    del self._due[function]
            for function in late:
                threading.Thread(target=function, daemon=True).start()


WATCH = Watch()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--leavings-seconds", type=float, default=30.0, help="how long what is ending may take to be gone")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Iterator[object]:
    """Among modules and tests there is no garbage: it is neither looked for while they are made, nor by any test later. Tests import more
    of them, among which it is looked for less often than Python would."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000)
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files first, since nobody should wait for the last of them alone; those whose tests start clusters in turn with others,
    since several clusters that start at the same time keep each other from it."""
    files = dict.fromkeys(item.path for item in items)
    starting = {item.path for item in items if any(item.get_closest_marker(name) for name in ("cluster", "ray"))}
    others = sorted((path for path in files if path not in starting), key=lambda path: path.stem not in LONG)
    pairs = itertools.zip_longest([path for path in files if path in starting], others)
    turns = {path: number for number, path in enumerate(itertools.chain.from_iterable(pairs))}
    items.sort(key=lambda item: turns[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Before xdist starts its workers, which are processes of this run."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        session.config.stash[RUN] = Run()
    else:
        os.environ[processes.MARK] += f"/{worker}"
    use_own_folder(worker or "0")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """After xdist has ended its workers: look for what is left."""
    end_own_fork_server()
    run = session.config.stash.get(RUN, None)
    if run is None:
        return
    end_shared()
    if left := run.left(session.config.getoption("--leavings-seconds")):
        session.config.stash[LEFT] = left
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    run.remove(failed=session.exitstatus != pytest.ExitCode.OK)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left := config.stash.get(LEFT, []):
        terminalreporter.section("left behind", red=True)
        for line in left:
            terminalreporter.line(f"LEFT {line}")


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read or written of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "ORCHESTRATE_STORAGE"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def template() -> Path:
    """An empty MLflow database, in which nobody writes: stores of tests are copies of it."""
    from mlflow.store.db import utils

    # It reads all of its migrations whenever a database is opened, only to know which is the newest.
    utils._get_latest_schema_revision = cache(utils._get_latest_schema_revision)
    return made_template()


@pytest.fixture(scope="session")
def cluster_address() -> str:
    """Of a cluster that is there for the whole run, on which sweeps begin sooner than on a Ray of their own."""
    return str(shared("warm", shared("cluster")))


@pytest.fixture(scope="session")
def database() -> str:
    """The URI of a database on PostgreSQL, in which all tests of a run write."""
    return made_schema(str(shared("database")))


@pytest.fixture(scope="session")
def server(template: Path) -> str:
    """The address of an MLflow server on SQLite, to which all tests of a run write."""
    return str(shared("server", str(template))["uri"])


@pytest.fixture(scope="session")
def secured(database: str) -> MlflowServer:
    """An MLflow server on PostgreSQL that lets nobody in without a password."""
    return MlflowServer(**shared("secured", database))


def _end_all(item: pytest.Item) -> None:
    """End what a test has started since it began, and whatever that has started."""
    processes.end(list(processes.marked(os.environ[processes.MARK], item.stash[BEGAN])))


def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> None:
    """Beside pytest-timeout's own timer, which raises in the test: for tests that do not hear it."""
    item.stash[BEGAN] = time.time()
    if settings.timeout and settings.timeout > 0:
        late = settings.timeout + GRACE
        WATCH.expect({partial(_end_all, item): late, partial(os._exit, 1): late + GRACE})


def pytest_timeout_cancel_timer() -> None:
    WATCH.expect({})


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    # What fixtures have started is theirs: other tests may share it.
    item.stash[BEGAN] = time.time()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    if call.excinfo is not None and "from pytest-timeout" in str(call.excinfo.value):
        _end_all(item)
    return (yield)
