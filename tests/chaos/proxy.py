"""A proxy before an MLflow server that has its troubles: errors, answers that are lost or cut short, silence."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TROUBLES = ("500", "429", "half", "lost", "nothing")
"""An error, too many requests, half an answer, none to what was done, and none to what was not."""
SILENCE = 20.0
"""Seconds after which a connection is closed on which nothing was said."""
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}


class Proxy:
    """Passes requests on to a ``port`` on loopback, from a port of its own, except for those that come to grief."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.trouble = ""
        self.met = 0
        """How many requests have met with trouble."""
        self.over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="proxy", daemon=True).start()

    @contextmanager
    def in_trouble(self, trouble: str) -> Iterator[None]:
        """Let all requests meet with one of `TROUBLES`."""
        self.over.clear()
        self.trouble = trouble
        try:
            yield
        finally:
            self.trouble = ""
            self.over.set()

    def close(self) -> None:
        """Take no more requests."""
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        body, trouble = self.rfile.read(int(self.headers.get("Content-Length") or 0)), self.proxy.trouble
        self.proxy.met += bool(trouble)
        if trouble == "nothing":
            self.proxy.over.wait(SILENCE)
            self.close_connection = True
        elif trouble in ("500", "429"):
            self._answer(int(trouble), [], b'{"error_code": "TEMPORARILY_UNAVAILABLE"}')
        else:
            try:
                status, headers, content = self._forwarded(body)
            except (OSError, http.client.HTTPException):
                status, headers, content = 502, [], b""
            if trouble == "lost":
                self.close_connection = True
            else:
                self._answer(status, headers, content, half=trouble == "half")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

    def _forwarded(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.target, timeout=60)
        try:
            kept = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            connection.request(self.command, self.path, body or None, kept)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, half: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        with suppress(OSError):
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if half else content)
        self.close_connection = self.close_connection or half

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
