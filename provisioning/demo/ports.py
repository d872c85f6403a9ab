"""Free ports for the local programs; two runs of ours never choose the same one."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from provisioning.demo.errors import PortError

LOOPBACK = "127.0.0.1"
EVERY_ADDRESS = ""
N_TRIED = 200
"""How many ports above a default one are tried."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A port that a program is to listen on."""

    what: str
    """The program, for messages: `Prometheus`."""
    port: int
    option: str = ""
    """The option for another port; empty: there is none."""
    is_explicit: bool = False
    """Whether an option gave the port: then no other one will do."""
    host: str = LOOPBACK


class Claims:
    """Ports that this process has chosen, as sockets of the abstract namespace, for other runs."""

    def __init__(self) -> None:
        self._held = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def claim(self, port: int) -> bool:
        """Claim a port; say whether no other run had."""
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            mark.bind(f"\0ollama-fleet-port-{port}")
        except OSError:
            mark.close()
            return False
        self._held.enter_context(mark)
        return True


class Ports:
    """Hands out free ports, none of them twice."""

    def __init__(self, *, say: Callable[[str], None], claims: Claims | None = None) -> None:
        self._say = say
        self._claims = claims
        self._handed_out: set[int] = set()

    def take(self, wanted: Wanted) -> int:
        """Return the wanted port, or a near one.

        Raises:
            PortError: It is taken and was asked for explicitly, or all near ones are taken too.
        """
        if self._is_free(wanted.port, wanted.host):
            return self._hand_out(wanted.port)
        if wanted.is_explicit:
            raise _taken(wanted)
        port = self._next_free(wanted)
        if wanted.option:
            self._say(f"port {wanted.port} is taken: {wanted.what} listens on {port} instead")
        return self._hand_out(port)

    def take_range(self, wanted: Wanted, n: int) -> range:
        """Return n ports that follow one another, at the wanted one or above it.

        Raises:
            PortError: There is no such range.
        """
        first = wanted.port
        for port in range(wanted.port, 65_536):
            if not self._is_free(port, wanted.host):
                first = port + 1
            elif port - first + 1 == n:
                found = range(first, port + 1)
                self._handed_out.update(found)
                return found
        raise PortError(
            f"{wanted.what} cannot listen: no {n:,} ports in a row are free from {wanted.port} on; "
            "stop other programs, or ask for fewer instances"
        )

    def _next_free(self, wanted: Wanted) -> int:
        last = min(wanted.port + N_TRIED, 65_535)
        for port in range(wanted.port + 1, last + 1):
            if self._is_free(port, wanted.host):
                return port
        advice = f"; choose another with {wanted.option}" if wanted.option else ""
        raise PortError(
            f"{wanted.what} cannot listen: ports {wanted.port} to {last} are all taken{advice}"
        )

    def _is_free(self, port: int, host: str) -> bool:
        """Claim a port if it is free; say whether it is ours now."""
        if port in self._handed_out or not can_bind(port, host):
            return False
        return self._claims is None or self._claims.claim(port)

    def _hand_out(self, port: int) -> int:
        self._handed_out.add(port)
        return port


def check_free(*wanted: Wanted) -> None:
    """Check that the ports given by options are free; choose nothing.

    Raises:
        PortError: A port that was asked for explicitly is taken.
    """
    for one in wanted:
        if one.is_explicit and not can_bind(one.port, one.host):
            raise _taken(one)


def _taken(wanted: Wanted) -> PortError:
    return PortError(
        f"{wanted.what} cannot listen on port {wanted.port}: another program does; "
        f"choose another with {wanted.option}, or leave the option out for any free one"
    )


def address_of(port: int) -> str:
    """Return a port of this machine's loopback as `host:port`."""
    return f"{LOOPBACK}:{port}"


def url_of(port: int) -> str:
    """Return the server on a loopback port, without a slash at its end."""
    return f"http://{address_of(port)}"


def can_bind(port: int, host: str) -> bool:
    """Return whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of a predecessor that linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
