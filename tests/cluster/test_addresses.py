"""Where Ray's token goes: to addresses that this user has given, and to no other, whatever MLflow says of a sweep."""

from __future__ import annotations

import http.server
import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.addresses import check_known, is_known, remember
from orchestrator.cluster.jobs import JOB_FILE, Jobs, Order
from orchestrator.errors import RayUnavailable, UsageError
from orchestrator.files import state_folder
from orchestrator.grid import parse_grid
from orchestrator.sweeps.resume import is_alive
from orchestrator.tracking import layout
from orchestrator.tracking.read.queries import SweepSummary
from tests.cli.commands import GRID
from tests.processes import run

TOKEN = "c3" * 32


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def _token(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from ray._raylet import AuthenticationTokenLoader

    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    AuthenticationTokenLoader.instance().reset_cache()
    yield
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def serving(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[Any]]]:
    """A server that answers as it is told, and what it was asked."""
    asked: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers.get("Authorization"))
            answer(self)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def says(content: Any) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(json.dumps(content).encode())

    return answer


def ended(request: http.server.BaseHTTPRequestHandler) -> None:
    """What Ray says of itself, and of a job."""
    job = {"type": "SUBMISSION", "status": "FAILED", "entrypoint": "x", "submission_id": "j"}
    says({"ray_version": "2.60.0"} if request.path == "/api/version" else job)(request)


def sweep(address: str) -> SweepSummary:
    tags = {layout.JOB: f"orchestrate-1 {address}", layout.MACHINE: "elsewhere", layout.PROCESS: "1 0"}
    return SweepSummary("1", "x", "1", "RUNNING", 0.0, None, 1, {}, 0, "r", tags=tags)


@pytest.mark.usefixtures("_token")
def test_a_stranger_named_by_a_tag_is_not_asked_and_hears_no_token():
    with serving(ended) as (address, asked):
        assert is_alive(sweep(address)) is None
        with pytest.raises(UsageError, match=f"only with --address {address}"):
            check_known(address)
        assert not asked


@pytest.mark.usefixtures("_token")
@pytest.mark.parametrize("how", ["given", "environment", "sent"])
def test_whom_this_user_has_named_is_asked(monkeypatch, how):
    with serving(ended) as (address, asked):
        if how == "environment":
            monkeypatch.setenv("RAY_ADDRESS", f"{address}/")
        elif how == "sent":
            remember(address)
        assert is_alive(sweep(address), address if how == "given" else None) is False
        assert set(asked) == {f"Bearer {TOKEN}"}


def test_addresses_are_remembered_once_for_this_user_alone():
    for _ in range(2):
        remember("http://head:8265/")
        remember("ray://other:10001")
    path = state_folder() / "addresses"
    assert path.read_text() == "http://head:8265\nhttp://other:8265\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert is_known("http://other:8265/")
    assert not is_known("http://head:8266")


def test_nowhere_to_remember_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    remember("http://head:8265")
    assert not is_known("http://head:8265")


@pytest.mark.parametrize("content", [{}, [], None, 1, "x", {"ray_version": 1}, {"ray_version": "new"}, {"ray_version": "2.60.0"}])
def test_answers_that_are_not_rays_are_one_line(content):
    with serving(says(content)) as (address, _), pytest.raises(RayUnavailable, match="answers, but not as Ray does") as caught:
        Jobs(address).status("j")
    assert "\n" not in str(caught.value)


def test_passwords_of_a_job_are_for_its_user_alone_and_gone_once_they_are_read(tmp_path):
    order = Order("1", "http://head:8265", "g.yaml", [], {}, {}, {"MLFLOW_TRACKING_PASSWORD": "secret"})
    before = os.umask(0)
    try:
        order.write(tmp_path, parse_grid(GRID))
    finally:
        os.umask(before)
    (kept,) = [path for path in tmp_path.iterdir() if path.is_file() and "secret" in path.read_text()]
    assert (kept.name, stat.S_IMODE(kept.stat().st_mode)) == (JOB_FILE, 0o600)
    assert Order.read(tmp_path) == order
    assert not kept.exists()


def test_a_grid_travels_as_it_is_whatever_the_locale(tmp_path):
    code = """
from pathlib import Path
from orchestrator.cluster.jobs import Order
from orchestrator.grid import parse_grid
from tests.cli.commands import GRID
Order("1", "", "g.yaml", [], {}, {}, {}).write(Path(), parse_grid(GRID + "# \\u00e9\\n"))
"""
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | ascii_alone)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "grid.yaml").read_bytes() == f"{GRID}# \u00e9\n".encode()


@pytest.mark.parametrize("bytes_sent", [b"", b"HTTP/1.1 200 OK\r\n\r\n{"], ids=["nothing", "drops"])
def test_a_server_that_never_comes_to_an_end_is_given_up(bytes_sent):
    over = threading.Event()

    def drip(request: http.server.BaseHTTPRequestHandler) -> None:
        while not over.wait(0.01):
            request.wfile.write(bytes_sent)

    with serving(drip) as (address, _):
        with pytest.raises(RayUnavailable, match=r"takes connections and does not answer: timed out after 0\.3 s"):
            Jobs(address, seconds=0.3)
        over.set()
