"""Instances that answer as a test says: byte by byte, cut off, or with lies."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

END = None
"""In a script: the body ends as it should."""
Script = Sequence[bytes | float | threading.Event | None]
"""Pieces of a body, pauses in seconds or until an event, and END; without END the instance breaks
it off."""

HEAD = b"HTTP/1.1 %d OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n%s\r\n"
NDJSON = b"application/x-ndjson"


class Instance:
    """Serves scripts, one for each request in turn; the last one for all further requests."""

    def __init__(self, *scripts: Script, status: int = 200, headers: bytes = b"") -> None:
        self.scripts = list(scripts)
        self.status = status
        self.headers = headers
        self.n_requests = 0
        self.requests: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while request := _read_request(connection):
                self.requests.append(request)
                script = self.scripts[min(self.n_requests, len(self.scripts) - 1)]
                self.n_requests += 1
                connection.sendall(HEAD % (self.status, NDJSON, self.headers))
                if not _play(connection, script):
                    return

    def close(self) -> None:
        """Refuse further connections."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # or the thread that accepts goes on
        self._socket.close()


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        received = connection.recv(65_536)
        if not received:
            return b""
        data += received
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = int(lengths[0].split(b":")[1]) - len(body) if lengths else 0
    while missing > 0:
        received = connection.recv(65_536)
        body += received
        missing -= len(received)
    return head + b"\r\n\r\n" + body


def _play(connection: socket.socket, script: Script) -> bool:
    """Send what a script says; return whether it came to its end."""
    for piece in script:
        if piece is END:
            connection.sendall(b"0\r\n\r\n")
            return True
        if isinstance(piece, float):
            time.sleep(piece)
        elif isinstance(piece, threading.Event):
            piece.wait()
        elif piece:
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
    return False


@contextlib.contextmanager
def instances(*all_of_them: Instance) -> Iterator[tuple[Instance, ...]]:
    """Close them in the end."""
    try:
        yield all_of_them
    finally:
        for instance in all_of_them:
            instance.close()


def lines(*objects: str) -> bytes:
    """Return objects as Ollama streams them."""
    return b"".join(f"{one}\n".encode() for one in objects)


def events(*objects: str) -> bytes:
    """Return objects as servers with OpenAI's API stream them."""
    return b"".join(f"data: {one}\n\n".encode() for one in objects)


def split_everywhere(body: bytes) -> Iterable[Script]:
    """Yield scripts that send a body in two pieces, one script for each place to split it."""
    return ((body[:at], 0.002, body[at:], END) for at in range(1, len(body)))
