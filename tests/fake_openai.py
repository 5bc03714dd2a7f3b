"""A small OpenAI-compatible server on the loopback, which does what a test planned."""

from __future__ import annotations

import json
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from copersona.language.encoders import HashingEncoder


@dataclass(frozen=True)
class Reply:
    """One planned answer.

    `hangs` sends the body so far and then nothing more; `then` is sent once the server is told to
    `go_on`. With status 0 nothing is sent at all: it is lost, or hangs before its head.
    """

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False
    then: bytes = b""


LOST = Reply(0)


def json_reply(body: object, status: int = 200, **headers: str) -> Reply:
    return Reply(status, json.dumps(body).encode(), {"content-type": "application/json", **headers})


def chat(text: object) -> Reply:
    return json_reply({"choices": [{"message": {"role": "assistant", "content": text}}]})


def events(*data: object, hangs: bool = False) -> Reply:
    lines = [each if isinstance(each, str) else json.dumps(each) for each in data]
    body = "".join(f"data: {line}\n\n" for line in lines).encode()
    return Reply(200, body, {"content-type": "text/event-stream"}, hangs)


def piece(text: str | None, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}


class FakeServer(ThreadingHTTPServer):
    """Sends the planned replies in order, then embeds or greets; remembers what it was asked."""

    daemon_threads = True

    def __init__(self, *plan: Reply) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plan = list(plan)
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.go_on = threading.Event()
        self.closed = threading.Event()
        self.hung_up = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        self.hung_up.set()  # the client closed the connection, as some tests mean it to

    def usual_reply(self, asked: dict[str, Any]) -> Reply:
        if "messages" in asked:
            return chat("hello")
        rows = HashingEncoder(32).encode(asked["input"]) * 3
        data = [{"index": i, "embedding": row.tolist()} for i, row in enumerate(rows)]
        return json_reply({"data": data[::-1]})


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.bodies.append(body)
        self.server.asked.append(asked := json.loads(body))
        self._answer(asked)

    def _answer(self, asked: dict[str, Any]) -> None:
        self.server.headers.append({key.lower(): value for key, value in self.headers.items()})
        self.server.paths.append(self.path)
        reply = self.server.plan.pop(0) if self.server.plan else self.server.usual_reply(asked)
        if reply.status:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)
        if reply.then and self.server.go_on.wait(30):
            self.wfile.write(reply.then)
        while reply.hangs and not self.server.closed.wait(0.02):
            self.wfile.write(b":\n" if "event-stream" in str(reply.headers) else b"")
            if select.select([self.connection], [], [], 0)[0]:  # nothing more comes but its end
                self.server.hung_up.set()
                return

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean."""


@contextmanager
def serving(*plan: Reply) -> Iterator[FakeServer]:
    """Serve until the block ends."""
    server = FakeServer(*plan)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closed.set()
        server.shutdown()
        server.server_close()
        thread.join()
