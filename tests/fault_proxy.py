"""A proxy on loopback before a real S3 server, which does harm by rule.

The client's request goes on unchanged, `Host` included: it is part of the signature (SigV4), and
the server compares it with what it receives. One request a connection. Rules are looked at in order
and the first that applies is done; without one the proxy is transparent.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from types import TracebackType

ANSWERS = {  # the error answers of S3: status, code, and the words a user may get to read
    "403": ("AccessDenied", "Access Denied."),
    "404": ("NoSuchBucket", "The specified bucket does not exist."),
    "500": ("InternalError", "We encountered an internal error. Please try again."),
    "503": ("SlowDown", "Please reduce your request rate."),
}
BEFORE = {"reset", "stall"}  # the server never sees the request
AFTER = {"lost", "cut", "short", "flip"}  # it was carried out; the answer does not come as sent
When = Callable[[int, str], bool]  # of the how many-th request it is (from 1), and which


def always() -> When:
    """Every request."""
    return lambda number, request: True


def on(*numbers: int) -> When:
    """Those requests, counted from 1."""
    return lambda number, request: number in numbers


def once_each() -> When:
    """Each request the first time it is made, so that its first repetition passes."""
    seen: set[str] = set()

    def first(number: int, request: str) -> bool:
        new = request not in seen
        seen.add(request)
        return new

    return first


def share(part: float, seed: int) -> When:
    """That share of all requests, drawn from a seed."""
    draw = random.Random(seed)
    return lambda number, request: draw.random() < part


@dataclass
class Rule:
    """`fault` (a key of ANSWERS, or of BEFORE or AFTER) on requests of some methods below a path.

    "stall": silence; "reset": the connection is reset before the request is passed on; "lost": it
    is reset after the server has done the work; "cut": half the body, then FIN; "short": half the
    body, with a Content-Length that says so; "flip": one bit of the body.
    """

    fault: str
    when: When
    method: str = ""  # any
    path: str = "/"  # part of the request's path
    count: int = 0

    def applies(self, method: str, path: str) -> bool:
        """Whether this request is hit; it is counted when method and path fit."""
        if self.method not in ("", method) or self.path not in path:
            return False
        self.count += 1
        return self.when(self.count, f"{method} {path}")


@dataclass
class Answer:
    """A response, read whole."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


class FaultProxy:
    """`with FaultProxy(port) as proxy:` clients go to `proxy.endpoint`; `rules` may change."""

    def __init__(self, port: int) -> None:
        self.port, self.rules = port, list[Rule]()
        self.hits: list[str] = []  # "fault METHOD path" of every fault done
        self.closing, self._lock = threading.Event(), threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.faults = self

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def pick(self, method: str, path: str) -> str | None:
        """The fault of this request, if any."""
        with self._lock:
            for rule in self.rules:
                if rule.applies(method, path):
                    self.hits.append(f"{rule.fault} {method} {path}")
                    return rule.fault
        return None

    def __enter__(self) -> FaultProxy:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()  # waits for every request in progress
        self._thread.join()


class _Server(ThreadingMixIn, HTTPServer):
    daemon_threads = False
    faults: FaultProxy


class _Handler(BaseHTTPRequestHandler):
    """Answers `Expect: 100-continue` itself, as HTTP/1.1 servers do; the rest in `pass_on`."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def pass_on(self) -> None:
        """One request, with its fault."""
        self.close_connection = True
        faults = self.server.faults
        with contextlib.suppress(ConnectionError, TimeoutError):  # the client has gone away
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = faults.pick(self.command, self.path)
            if fault in ANSWERS:
                self.send(_refusal(fault))
            elif fault in BEFORE:
                if fault == "stall":
                    faults.closing.wait()
                self.reset()
            else:
                answer = self.ask(body)
                if fault == "lost":
                    self.reset()
                else:
                    self.send(answer, fault)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = pass_on

    def ask(self, body: bytes) -> Answer:
        """The server's answer to this request."""
        server = http.client.HTTPConnection("127.0.0.1", self.server.faults.port, timeout=60)
        with contextlib.closing(server):
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    server.putheader(name, value)
            server.endheaders(body or None)
            reply = server.getresponse()
            return Answer(reply.status, reply.reason, reply.getheaders(), reply.read())

    def send(self, answer: Answer, fault: str | None = None) -> None:
        """The answer, harmed when it has a body; HEAD keeps the length and has none."""
        body, length = answer.body, len(answer.body)
        half = body[: length // 2]
        if fault == "flip" and body:
            body = half + bytes([body[len(half)] ^ 1]) + body[len(half) + 1 :]
        elif fault in ("cut", "short"):
            body, length = half, length if fault == "cut" else len(half)
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = int(value)
            elif name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        if answer.status not in (204, 304):
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def reset(self) -> None:
        """RST in place of FIN: closing with a linger of 0 s does that."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def finish(self) -> None:
        """As inherited; a connection that was reset cannot be flushed."""
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


def _refusal(status: str) -> Answer:
    code, message = ANSWERS[status]
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    ).encode()
    return Answer(int(status), code, [("Content-Type", "application/xml")], body)
