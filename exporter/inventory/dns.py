"""List the instances that DNS names: by SRV records, or by the addresses of a name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from exporter.errors import SourceError
from exporter.inventory.address import port_of_url
from exporter.inventory.discovery import Listing, parts_of
from exporter.inventory.http import MAX_REASON_CHARACTERS, too_slow
from exporter.inventory.source import SourceSettings
from ollama_fleet.extras import install_line
from ollama_fleet.urls import host_port, is_address

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

EXAMPLES = "dns+srv://_ollama._tcp.example.org or dns+a://ollama.example.org:11434"
PLACE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,253})(?::(?P<port>[0-9]{1,5}))?")
SERVER_PORT = 53


class DnsDiscovery:
    """What a name's records say: of SRV host and port, of A and AAAA the address."""

    def __init__(self, url: str, name: str, settings: SourceSettings) -> None:
        parts = parts_of(url, ("server",), EXAMPLES)
        place = PLACE.fullmatch(parts.place)
        self._type = parts.scheme.removeprefix("dns+").upper()
        if place is None or parts.path or bool(place["port"]) == (self._type == "SRV"):
            raise ValueError(f"must be a name for SRV records, or NAME:PORT: {EXAMPLES}")
        self._name = place["name"]
        self._port = port_of_url(place["port"]) if place["port"] else 0
        self._server = _server(parts.options.get("server", ""))
        self._timeout_s = settings.timeout_s
        try:
            import dns.asyncresolver  # noqa: F401
        except ImportError as error:
            raise ValueError(f"needs dnspython; install it with: {install_line('dns')}") from error

    async def fill(self, listing: Listing) -> None:
        """Add all instances.

        Raises:
            SourceError: No name server answers in time, or the name has no such record.
        """
        for record in await self._records():
            host, port = self._host_and_port(record)
            if host:  # a lone SRV record whose target is the root says that there are none
                listing.add(f"{host}:{port}", {"host": host, "port": port})

    async def close(self) -> None:
        """Do nothing: no socket stays open between two reads."""

    async def _records(self) -> list[Any]:
        from dns.exception import DNSException, Timeout
        from dns.resolver import NXDOMAIN, NoAnswer

        try:
            # Absolute: the search list of resolv.conf would find a namesake in another domain.
            name = self._name.rstrip(".") + "."
            answer = await self._resolver().resolve(name, self._type, lifetime=self._timeout_s)
        except NXDOMAIN as error:
            raise SourceError("there is no such name in DNS") from error
        except NoAnswer as error:
            raise SourceError(f"has no {self._type} record in DNS") from error
        except Timeout as error:
            raise SourceError(too_slow(self._timeout_s)) from error
        except (DNSException, OSError) as error:
            why = " ".join(str(error).split())[:MAX_REASON_CHARACTERS]
            raise SourceError(f"cannot be looked up: {why}") from error
        return list(answer)

    def _resolver(self) -> Resolver:
        """Return a resolver that asks the given server, or as /etc/resolv.conf now says."""
        from dns.asyncresolver import Resolver

        resolver = Resolver(configure=self._server is None)
        if self._server is not None:
            host, resolver.port = self._server
            resolver.nameservers = [host]
        return resolver

    def _host_and_port(self, record: Any) -> tuple[str, int]:
        if self._type == "SRV":
            return record.target.to_text(omit_final_dot=True).rstrip("."), record.port
        return record.address, self._port


def _server(text: str) -> tuple[str, int] | None:
    """Return address and port of a name server; None for none."""
    if not text:
        return None
    host, port = (text, SERVER_PORT) if is_address(text) else host_port(text, example="10.0.0.2:53")
    if not is_address(host) or not port:
        raise ValueError("must give the server by its IP address, such as server=10.0.0.2:53")
    return host, port
