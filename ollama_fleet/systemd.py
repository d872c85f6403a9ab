"""Tell systemd how a service is doing, and take sockets from it: sd_notify(3), sd_listen_fds(3)."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable

FIRST_SOCKET = 3
"""SD_LISTEN_FDS_START: below it are stdin, stdout and stderr."""

log = logging.getLogger(__name__)


class SocketError(Exception):
    """systemd passed a socket that no web server can use."""


def notify(*states: str) -> None:
    """Send states, such as READY=1, to the service manager, if one wants to know."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            sender.send("\n".join(states).encode())
    except OSError as error:
        log.warning("systemd notification failed states=%s: %s", ",".join(states), error.strerror)


def reloading() -> tuple[str, str]:
    """Return the states that begin a reload, which READY=1 ends."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def watchdog_s() -> float | None:
    """Return how often WATCHDOG=1 is due: at half the time after which systemd restarts us."""
    period_us, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    is_ours = pid in ("", str(os.getpid()))
    return int(period_us) / 2e6 if period_us.isdecimal() and int(period_us) and is_ours else None


async def feed_watchdog(period_s: float, is_alive: Callable[[], bool] = lambda: True) -> None:
    """Send WATCHDOG=1 each period while a program is alive, until cancelled."""
    while True:
        if is_alive():
            notify("WATCHDOG=1")
        await asyncio.sleep(period_s)


def listening_sockets() -> list[socket.socket]:
    """Return the TCP sockets that systemd opened for this process; no child gets them.

    Raises:
        SocketError: One of them does not listen for TCP.
    """
    n, pid = os.environ.get("LISTEN_FDS", ""), os.environ.get("LISTEN_PID", "")
    if not n.isdecimal() or pid != str(os.getpid()):
        return []
    sockets = [socket.socket(fileno=FIRST_SOCKET + k) for k in range(int(n))]
    for one in sockets:
        one.set_inheritable(False)
        if one.family not in (socket.AF_INET, socket.AF_INET6) or not _listens(one):
            raise SocketError("systemd passed a socket that does not listen for TCP: see its unit")
    return sockets


def _listens(one: socket.socket) -> bool:
    return bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
