"""Where the instances live: one loopback address each, all on the same port.

All of 127.0.0.0/8 is loopback on Linux, so one listener on 0.0.0.0 is reached under 16 million
addresses; the one that the client called says which instance it means.
"""

from __future__ import annotations

import ipaddress

FIRST = int(ipaddress.IPv4Address("127.1.0.1"))
"""Clear of 127.0.0.1, where the machine's own services live."""
MAX_INSTANCES = int(ipaddress.IPv4Address("127.255.255.254")) - FIRST + 1


def address_of(index: int) -> str:
    """Return the address of the instance number `index`, counted from 0."""
    return str(ipaddress.IPv4Address(FIRST + index))


def index_of(address: str) -> int:
    """Return the number of the instance at an IPv4 address; negative below the first one."""
    return int(ipaddress.IPv4Address(address)) - FIRST


def is_loopback(address: str) -> bool:
    """Say whether an IPv4 address lies in 127.0.0.0/8."""
    return address.startswith("127.")
