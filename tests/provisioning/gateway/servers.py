"""LLM servers for tests: threads that answer as Ollama does, count, and misbehave on request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that leave are what tests are about."""


class Server:
    """One server; tests change its attributes while it runs."""

    def __init__(self) -> None:
        self.status = 200
        self.pause_s = 0.0
        """Before its answer, and after each object of a stream."""
        self.go_on = threading.Event()
        """Ends all pauses."""
        self.raw: bytes | None = None
        """What it answers instead, before it closes the connection; empty: it just closes."""
        self.headers: dict[str, str] = {}
        self.n_requests = 0
        self.n_at_once = 0
        self.most_at_once = 0
        self.n_left = 0
        """Clients that left while it answered."""
        self.bodies: list[bytes] = []
        self.heads: list[dict[str, str]] = []
        self.times_s: list[float] = []
        self.lock = threading.Lock()
        self.http = _Quiet(("127.0.0.1", 0), type("Handler", (_Handler,), {"of": self}))
        self.port: int = self.http.server_address[1]

    def chunks(self) -> Iterator[bytes]:
        """Yield the objects of a stream."""
        for number in range(3):
            yield json.dumps({"response": str(number), "done": number == 2}).encode() + b"\n"


class _Handler(BaseHTTPRequestHandler):
    of: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        with self.of.lock:
            self.of.times_s.append(time.monotonic())
            self.of.n_requests += 1
            self.of.n_at_once += 1
            self.of.most_at_once = max(self.of.most_at_once, self.of.n_at_once)
        try:
            self._answer()
        finally:
            with self.of.lock:
                self.of.n_at_once -= 1

    do_GET = do_POST  # noqa: N815

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.of.bodies.append(body)
        self.of.heads.append(dict(self.headers))
        if self.of.raw is not None:
            self.of.go_on.wait(self.of.pause_s)
            self.wfile.write(self.of.raw)
            self.close_connection = True
        elif b'"stream": true' in body:
            self._stream()
        else:
            self.of.go_on.wait(self.of.pause_s)
            self._send(json.dumps({"port": self.of.port, "done": True}).encode())

    def _send(self, text: bytes) -> None:
        self.send_response(self.of.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        for name, value in self.of.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def _stream(self) -> None:
        self.send_response(self.of.status)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for chunk in self.of.chunks():
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                self.wfile.flush()
                self.of.go_on.wait(self.of.pause_s)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.of.n_left += 1
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running_servers(n: int) -> Iterator[list[Server]]:
    """Run servers until the block ends."""
    servers = [Server() for _ in range(n)]
    with ExitStack() as stack:
        for server in servers:
            thread = threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            stack.callback(server.http.server_close)
            stack.callback(server.http.shutdown)
        yield servers
