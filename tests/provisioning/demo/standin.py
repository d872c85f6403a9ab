"""Small processes that stand in for real programs: they answer 200, or misbehave in one way.

python -m tests.provisioning.demo.standin PORT [MODE]
"""

from __future__ import annotations

import signal
import subprocess
import sys
from enum import StrEnum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from provisioning.demo.processes import ChildSpec


class Mode(StrEnum):
    OK = "ok"
    FAILS = "fails"
    """Says why on stderr and ends with status 3."""
    UNREADY = "unready"
    """Answers 503 for ever."""
    STUBBORN = "stubborn"
    """Ignores SIGTERM."""
    PARENT = "parent"
    """Starts a process that ignores SIGTERM, says its id, and leaves it behind when it ends."""


def child(
    name: str, port: int, mode: Mode = Mode.OK, *, ready_within_s: float = 120.0
) -> ChildSpec:
    command = (sys.executable, "-m", "tests.provisioning.demo.standin", str(port), mode.value)
    return ChildSpec(name, command, f"http://127.0.0.1:{port}/", ready_within_s)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class Page(BaseHTTPRequestHandler):
    status = HTTPStatus.OK
    body = b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


class Unready(Page):
    status = HTTPStatus.SERVICE_UNAVAILABLE


def main(port: int, mode: Mode) -> None:
    if mode is Mode.FAILS:
        sys.stderr.write("the configuration is wrong: line 7\n")
        sys.exit(3)
    if mode is Mode.STUBBORN:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if mode is Mode.PARENT:
        stubborn = subprocess.Popen(["/bin/sh", "-c", "trap '' TERM; sleep 600"])
        Page.body = str(stubborn.pid).encode()
    page = Unready if mode is Mode.UNREADY else Page
    HTTPServer(("127.0.0.1", port), page).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Mode(sys.argv[2]))
