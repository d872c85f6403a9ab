"""List the instances of a service in Consul's catalogue."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import quote, urlencode

import msgspec

from exporter.errors import SourceError
from exporter.inventory.discovery import Entry, Listing, described, parts_of, require_ok
from exporter.inventory.http import HttpReader
from exporter.inventory.source import SourceSettings
from exporter.model import State
from exporter.steps import with_pauses
from ollama_fleet.urls import http_url

EXAMPLE = "consul://127.0.0.1:8500/ollama?tag=gpu&dc=dc1"
SERVICE = re.compile(r"[A-Za-z0-9._-]{1,128}")
SCHEMES = {"consul": "http", "consul+https": "https"}
FILTERED_HEADER = "X-Consul-Results-Filtered-By-ACLs"
MAINTENANCE = ("_node_maintenance", "_service_maintenance:")
"""How the ids of checks begin by which an operator takes a node or a service out of use."""


class _Node(msgspec.Struct, rename="pascal", gc=False):
    node: str
    address: str = ""


class _Service(msgspec.Struct, rename="pascal", gc=False):
    id: str = msgspec.field(name="ID")
    port: int
    address: str = ""
    meta: dict[str, str] | None = None


class _Check(msgspec.Struct, rename="pascal", gc=False):
    check_id: str = msgspec.field(name="CheckID", default="")


class _Item(msgspec.Struct, rename="pascal", gc=False):
    """One element of what `/v1/health/service/NAME` answers, as far as it matters here."""

    node: _Node
    service: _Service
    checks: list[_Check] = []


class ConsulDiscovery:
    """The instances of one service, healthy or not: the exporter finds that out itself."""

    def __init__(self, url: str, name: str, settings: SourceSettings) -> None:
        parts = parts_of(url, ("tag", "dc"), EXAMPLE)
        if not SERVICE.fullmatch(parts.path):
            raise ValueError(f"must name one service, such as {EXAMPLE}")
        agent = http_url(f"{SCHEMES[parts.scheme]}://{parts.place}", example=EXAMPLE)
        query = urlencode(parts.options, quote_via=quote)
        self._url = f"{agent}/v1/health/service/{parts.path}?{query}".rstrip("?")
        self._reader = HttpReader(name, settings)

    async def fill(self, listing: Listing) -> None:
        """Add all instances of the service; a list that lacks some is refused.

        Raises:
            SourceError: The agent cannot be reached, or answers anything else.
            InputError: The token file or the certificate file cannot be used.
        """
        reply = await self._reader.get(self._url)
        require_ok(reply)
        if reply.headers.get(FILTERED_HEADER) == "true":
            raise SourceError("hides instances: its token needs service:read and node:read")
        await asyncio.to_thread(_fill, listing, reply.body)

    async def close(self) -> None:
        """Close the connection."""
        await self._reader.close()


def _fill(listing: Listing, body: bytes) -> None:
    try:
        items = msgspec.json.decode(body, type=list[_Item])
    except (msgspec.DecodeError, RecursionError) as error:
        raise SourceError(f"answered what is no list of a service's instances: {error}") from error
    for item in with_pauses(items):
        listing.add(f"{item.node.node}/{item.service.id}", _entry(item))


def _entry(item: _Item) -> Entry:
    entry = {
        "host": item.service.address or item.node.address,
        "port": item.service.port,
        "node": item.node.node,
    } | described(item.service.meta or {}, "-")
    if any(check.check_id.startswith(MAINTENANCE) for check in item.checks):
        entry["state"] = State.DRAINING.value
    return entry
