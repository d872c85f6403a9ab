"""Serve the whole fleet from one listener.

In:   a Fleet, what its instances serve, and a listening socket.
Out:  connections, each of the instance whose address the client called; a connection to an
      address where no instance lives, or to none of this machine's loopback addresses, is reset.
"""

from __future__ import annotations

import asyncio
import logging
import socket

from provisioning.sim.address import index_of, is_loopback
from provisioning.sim.connection import Connection, Generator
from provisioning.sim.fleet import ENDS_PROCESS, Fleet, InstanceState
from provisioning.sim.pages import Site

log = logging.getLogger(__name__)


class FleetServer:
    """All the fleet's servers."""

    def __init__(
        self, fleet: Fleet, site: Site, generator: Generator, *, max_connections: int
    ) -> None:
        self.fleet = fleet
        self.site = site
        self.generator = generator
        self.n_accepted = 0
        """Connections that an instance accepted since the start."""
        self._max_connections = max_connections
        self._is_full = False
        self._connections: dict[Connection, InstanceState] = {}
        self._server: asyncio.Server | None = None
        self._emptied = asyncio.Event()
        fleet.watch(self._faults_changed)

    def __repr__(self) -> str:
        return f"<FleetServer of {self.fleet!r}, {len(self._connections):,} connections>"

    @property
    def n_connections(self) -> int:
        """Return how many connections are open."""
        return len(self._connections)

    async def start(self, listener: socket.socket, *, backlog: int) -> None:
        """Accept connections from now on; the listener is the server's to close."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), sock=listener, backlog=backlog
        )

    async def stop(self) -> None:
        """Accept no more and cut all connections; return when the last one has ended."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.reset()
        while self._connections:
            self._emptied.clear()
            await self._emptied.wait()
        if self._server is not None:
            await self._server.wait_closed()

    def admit(self, connection: Connection, transport: asyncio.Transport) -> InstanceState | None:
        """Return the instance that was called, or None where nobody answers."""
        address = transport.get_extra_info("sockname")[0]
        index = index_of(address) if is_loopback(address) else -1
        if not 0 <= index < len(self.fleet.states) or not self._has_room():
            return None
        state = self.fleet.states[index]
        if state.trouble is not None and state.trouble.fault.kind in ENDS_PROCESS:
            return None
        self._connections[connection] = state
        self.n_accepted += 1
        return state

    def release(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._connections.pop(connection, None)
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
        for connection, state in tuple(self._connections.items()):
            if state.instance.index in indices:
                connection.fault_changed()
