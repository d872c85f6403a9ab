"""A simulation that hosts containers, for tests."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from provisioning.simulator.app import Hosting, Settings, Simulation, running_simulation
from provisioning.simulator.hosting import StartOrder
from provisioning.simulator.spec import FleetSpec
from tests.ports import HOSTED, own_part

N_PORTS = 30
SPEC = FleetSpec()


def free_range(n: int = N_PORTS) -> range:
    """Return ports that follow one another, and on which nothing listens."""
    own = own_part(HOSTED)
    span = len(own) - n
    offset = os.getpid() * 37 % span
    for _ in range(1000):
        ports = own[offset : offset + n]
        with suppress(OSError):
            return _probed(ports)
        offset = (offset + n) % span
    raise AssertionError(f"no {n} free ports in a row")


def _probed(ports: range) -> range:
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("0.0.0.0", port))  # noqa: S104 - as the simulation does
            probe.listen()
    return ports


@asynccontextmanager
async def hosting(
    folder: Path, *, load_s: float = 0.0, spec: FleetSpec = SPEC, n_ports: int = N_PORTS
) -> AsyncIterator[Simulation]:
    """Run a simulation that hosts containers, on this event loop."""
    settings = Settings(
        spec=spec,
        listen_port=0,
        faults=(),
        inventory_path=None,
        control_host="127.0.0.1",
        control_port=0,
        token_path=folder / "token",
        hosting=Hosting(free_range(n_ports), load_s),
    )
    async with running_simulation(settings) as simulation:
        yield simulation


def order(port: int, *, number: int = 1, generation: int = 1, fleet: str = "f") -> StartOrder:
    """Return an order for the first node."""
    return StartOrder(
        fleet=fleet,
        instance_id=f"llama-{number:05}",
        generation=generation,
        host="127.1.0.1",
        port=port,
        model="llama3.1:8b",
    )
