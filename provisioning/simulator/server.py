"""Serve the whole fleet from one listener, or from one for each port of a node."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Mapping

from provisioning.simulator.connection import Connection, Generator
from provisioning.simulator.errors import ListenError
from provisioning.simulator.fleet import ENDS_PROCESS, Fleet, InstanceState
from provisioning.simulator.fleet_api import Router
from provisioning.simulator.spec import Layout, Mode, is_loopback

BACKLOG = 65_535
"""Connects of a burst that wait for accept; the kernel caps it at net.core.somaxconn."""
RESERVED_DESCRIPTORS = 64
"""For the control API, files and the runtime itself."""


def open_listeners(ports: range) -> list[socket.socket]:
    """Listen for the containers of all nodes at once, on all ports or on none.

    Raises:
        ListenError: A port is taken or not permitted.
    """
    with contextlib.ExitStack() as opened:
        listeners = [
            opened.enter_context(_open(port, "other ones with --host-containers")) for port in ports
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


log = logging.getLogger(__name__)


class FleetServer:
    """All the fleet's servers."""

    def __init__(
        self,
        fleet: Fleet,
        routers: Mapping[Mode, Router],
        generator: Generator,
        *,
        max_connections: int,
        layout: Layout | None = None,
    ) -> None:
        self.fleet = fleet
        self.routers = routers
        self.generator = generator
        self.n_accepted = 0
        """Connections that an instance accepted since the start."""
        self._max_connections = max_connections
        self._layout = layout or Layout()
        self._is_full = False
        self._connections: dict[Connection, int] = {}
        self._connections_by_index: dict[int, set[Connection]] = {}
        """So that one instance's change costs nothing for the others' connections."""
        self._servers: list[asyncio.Server] = []
        self._emptied = asyncio.Event()
        fleet.watch(self._faults_changed)

    @property
    def n_connections(self) -> int:
        """Return how many connections are open."""
        return len(self._connections)

    @property
    def n_paused(self) -> int:
        """Return how many connections are read no further until their clients have caught up."""
        return sum(connection.is_paused for connection in self._connections)

    async def start(self, *listeners: socket.socket, backlog: int) -> None:
        """Accept connections from now on; the listeners are the server's to close."""
        loop = asyncio.get_running_loop()
        for listener in listeners:
            server = await loop.create_server(
                lambda: Connection(self), sock=listener, backlog=backlog
            )
            self._servers.append(server)

    async def stop(self) -> None:
        """Accept no more and cut all connections; return when the last one has ended."""
        for server in self._servers:
            server.close()
        for connection in tuple(self._connections):
            connection.reset()
        while self._connections:
            self._emptied.clear()
            await self._emptied.wait()
        for server in self._servers:
            await server.wait_closed()

    def admit(self, connection: Connection, transport: asyncio.Transport) -> InstanceState | None:
        """Return the instance that was called, or None where nobody answers."""
        address, port = transport.get_extra_info("sockname")
        index = self._layout.index_of(address, port)
        state = self.fleet.states.get(index) if is_loopback(address) else None
        if state is None or not self._has_room():
            return None
        if state.trouble is not None and state.trouble.fault.kind in ENDS_PROCESS:
            return None
        self._connections[connection] = index
        self._connections_by_index.setdefault(index, set()).add(connection)
        self.n_accepted += 1
        return state

    def release(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        index = self._connections.pop(connection, None)
        if index is not None:
            self._connections_by_index[index].discard(connection)
            if not self._connections_by_index[index]:
                del self._connections_by_index[index]
        if not self._connections:
            self._emptied.set()

    def _has_room(self) -> bool:
        was_full, self._is_full = (
            self._is_full,
            len(self._connections) >= self._max_connections,
        )
        if self._is_full and not was_full:
            log.warning(
                "resetting new connections: %d are open, and the limit of open files leaves no "
                "room for more; raise it (ulimit -Hn) or simulate fewer instances",
                len(self._connections),
            )
        return not self._is_full

    def _faults_changed(self, indices: frozenset[int]) -> None:
        for index in indices & self._connections_by_index.keys():
            for connection in tuple(self._connections_by_index[index]):
                connection.fault_changed()
