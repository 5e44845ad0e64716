"""The troubles of the chaos suite are such as they are said to be."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orchestrator.cluster.slurm.node import free_port
from tests.chaos.proxy import TROUBLES, Proxy
from tests.processes import eventually


class Echo(BaseHTTPRequestHandler):
    """Answers with what it is sent."""

    done: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.done.append(body)
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Path", self.path)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def done() -> list[bytes]:
    return []


@pytest.fixture
def proxy(done: list[bytes]) -> Iterator[Proxy]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Echo,), {"done": done}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy = Proxy(server.server_address[1])
    yield proxy
    proxy.close()
    server.shutdown()
    server.server_close()


def ask(proxy: Proxy) -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
    try:
        connection.request("POST", "/a?b=c", b"content")
        answer = connection.getresponse()
        return answer.status, answer.headers["X-Path"], answer.read()
    finally:
        connection.close()


def test_without_trouble_all_comes_through(proxy, done):
    assert [ask(proxy), ask(proxy)] == [(201, "/a?b=c", b"content")] * 2
    assert (done, proxy.met) == ([b"content"] * 2, 0)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_in_trouble_nobody_gets_a_whole_answer_and_then_everybody_does(proxy, done, trouble):
    with ThreadPoolExecutor() as pool:
        with proxy.in_trouble(trouble):
            asked = pool.submit(ask, proxy)
            eventually(lambda: proxy.met)
            if trouble == "nothing":
                assert not asked.done()
            else:
                asked.exception()
        if trouble in ("500", "429"):
            assert asked.result()[0] == int(trouble)
        else:
            assert isinstance(asked.exception(), http.client.HTTPException)
    assert done == ([b"content"] if trouble in ("half", "lost") else [])
    assert ask(proxy) == (201, "/a?b=c", b"content")


def test_a_server_that_is_down_is_a_bad_gateway():
    proxy = Proxy(free_port())
    assert ask(proxy)[0] == 502
    proxy.close()
