"""The sockets of the whole fleet, mostly one, and the descriptors that its connections need.

A fleet listens on every address, as binding each loopback address would take a descriptor and a
`listen` per instance. It is for this machine only all the same: the socket is bound to the
loopback device where the kernel permits it, and the server resets every connection that was made
to an address outside 127.0.0.0/8.
Fails with ListenError.
"""

from __future__ import annotations

import contextlib
import socket

from provisioning.simulator.errors import ListenError

BACKLOG = 65_535
"""Connects of a burst that wait for accept; the kernel caps it at net.core.somaxconn."""
RESERVED_DESCRIPTORS = 64
"""For the control API, files and the runtime itself."""


def open_listeners(ports: range) -> list[socket.socket]:
    """Listen for the units of all nodes at once, on all ports or on none.

    Raises:
        ListenError: A port is taken or not permitted.
    """
    with contextlib.ExitStack() as opened:
        listeners = [
            opened.enter_context(_open(port, "other ones with --host-units")) for port in ports
        ]
        opened.pop_all()
    return listeners


def open_listener(port: int) -> socket.socket:
    """Listen for all instances at once; port 0 takes a free one.

    Raises:
        ListenError: The port is taken or not permitted.
    """
    return _open(port, "another with --listen-port, or 0 for any")


def _open(port: int, remedy: str) -> socket.socket:
    try:
        return _listening(port)
    except OSError as error:
        raise ListenError(
            f"cannot listen on port {port} for the instances: {error.strerror}; choose {remedy}"
        ) from error


def _listening(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(PermissionError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
        listener.bind(("0.0.0.0", port))  # noqa: S104 - see the module's contract
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def max_connections(n_descriptors: int, *, n_listeners: int = 1) -> int:
    """Return how many connections fit into so many descriptors beside the listeners."""
    return max(1, n_descriptors - RESERVED_DESCRIPTORS - (n_listeners - 1))
