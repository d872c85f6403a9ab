"""Where the instances live: one loopback address each on one port, or a port each of its node's.

All of 127.0.0.0/8 is loopback on Linux, so one listener on 0.0.0.0 is reached under 16 million
addresses; the address and port that the client called say which instance it means.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

FIRST = int(ipaddress.IPv4Address("127.1.0.1"))
"""Clear of 127.0.0.1, where the machine's own services live."""
MAX_INSTANCES = int(ipaddress.IPv4Address("127.255.255.254")) - FIRST + 1


@dataclass(frozen=True, slots=True)
class Layout:
    """How many instances share an address, on ports that follow one another."""

    first_port: int = 0
    """Means nothing where an instance has its address for itself."""
    n_ports: int = 1

    @property
    def ports(self) -> range:
        """Return the ports that the instances of an address listen on."""
        return range(self.first_port, self.first_port + self.n_ports)

    def index_of(self, address: str, port: int) -> int:
        """Return the number of the instance at an address and a port; negative below the first."""
        return index_of(address) * self.n_ports + (port - self.first_port) % self.n_ports


def address_of(index: int) -> str:
    """Return the address of the instance number `index`, counted from 0."""
    return str(ipaddress.IPv4Address(FIRST + index))


def index_of(address: str) -> int:
    """Return the number of the instance at an IPv4 address; negative below the first one."""
    return int(ipaddress.IPv4Address(address)) - FIRST


def is_loopback(address: str) -> bool:
    """Say whether an IPv4 address lies in 127.0.0.0/8."""
    return address.startswith("127.")
