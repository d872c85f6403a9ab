"""Find the addresses of host names, once for all instances of a host.

In:   a host name.
Out:  one of its addresses. Fails with PollError(UNRESOLVED).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.errors import PollError
from exporter.model import Outcome

if TYPE_CHECKING:
    from exporter.clock import Clock

TTL_S = 60.0
"""How long an address is used; the system's resolver does not tell a record's time to live."""


@dataclass(frozen=True, slots=True)
class _Entry:
    address: asyncio.Future[str]
    expires_s: float

    @property
    def has_failed(self) -> bool:
        """Return whether the look-up ended without an address."""
        ended = self.address.done()
        return ended and (self.address.cancelled() or self.address.exception() is not None)


class Resolver:
    """Resolves host names and remembers their addresses for a minute.

    Thousands of instances live on a few hosts: one look-up serves all of a host's, also the ones
    that ask while it is under way.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}

    async def resolve(self, host: str) -> str:
        """Return an address of a host that is given by name.

        Raises:
            PollError: UNRESOLVED, where the name has no address or the resolver does not answer.
        """
        entry = self._entries.get(host)
        if entry is None or entry.has_failed or entry.expires_s <= self._clock.monotonic_s():
            address = asyncio.ensure_future(_look_up(host))
            entry = _Entry(address, self._clock.monotonic_s() + TTL_S)
            self._entries[host] = entry
        try:
            # One poll that runs out of time must not end the look-up for the others.
            return await asyncio.shield(entry.address)
        except OSError as error:
            raise _unresolved(host, error.strerror) from error
        except UnicodeError as error:  # a label that is empty or longer than 63 characters
            raise _unresolved(host, str(error)) from error

    async def close(self) -> None:
        """Give up the look-ups under way."""
        pending = [entry.address for entry in self._entries.values()]
        self._entries.clear()
        for address in pending:
            address.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


def is_address(host: str) -> bool:
    """Return whether the host is an IPv4 or IPv6 address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _unresolved(host: str, why: str | None) -> PollError:
    return PollError(Outcome.UNRESOLVED, f"cannot resolve {host}: {why}")


async def _look_up(host: str) -> str:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return str(found[0][4][0])
