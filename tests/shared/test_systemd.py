"""What is reported to systemd, and which sockets are taken from it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollama_fleet import systemd


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """Give the socket of a service manager."""
    path = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path if request.param == "path" else f"\0{path}")
        manager.settimeout(90.0)
        variable = path if request.param == "path" else f"@{path}"
        monkeypatch.setenv("NOTIFY_SOCKET", variable)
        yield manager


def test_states_go_to_the_service_manager(manager: socket.socket) -> None:
    systemd.notify("READY=1", "STATUS=polls")

    assert b"READY=1\nSTATUS=polls" == manager.recv(1000)


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "relative"])
def test_without_a_service_manager_nothing_is_said_and_nothing_fails(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)

    systemd.notify("READY=1")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_of_its_time(
    variables: dict[str, str], expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)

    assert expected == systemd.watchdog_s()


ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=sys.argv[2] or str(os.getpid()))
from ollama_fleet import systemd
try:
    print([(one.getsockname(), os.get_inheritable(one.fileno()))
           for one in systemd.listening_sockets()])
except systemd.SocketError as error:
    print(error)
"""


def activated(passed: socket.socket, pid: str = "") -> str:
    """Return what a process takes that systemd passes a socket."""
    found = subprocess.run(
        [sys.executable, "-c", ACTIVATED, str(passed.fileno()), pid],
        pass_fds=[passed.fileno()],
        check=True,
        capture_output=True,
        text=True,
    )
    return found.stdout.strip()


def test_a_socket_that_systemd_listens_at_is_taken_and_given_to_no_child() -> None:
    pair, other = socket.socketpair()
    with socket.socket() as listening, socket.socket() as idle, pair, other:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        assert str([(listening.getsockname(), False)]) == activated(listening)
        assert "[]" == activated(listening, pid="1")
        assert "does not listen for TCP" in activated(idle)
        assert "does not listen for TCP" in activated(pair)
