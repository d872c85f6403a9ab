"""List instances from a service discovery: what Kubernetes, Consul and DNS have in common."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Mapping
from itertools import islice
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl

import msgspec

from exporter.errors import SourceError
from exporter.inventory.checks import MAX_TEXT_CHARACTERS, UNPRINTABLE
from exporter.inventory.entries import FIELDS
from exporter.inventory.fields import MAX_LABELS
from exporter.inventory.formats import Format
from exporter.inventory.http import MAX_REASON_CHARACTERS, OK, Reply, status_message
from exporter.inventory.source import digest
from ollama_fleet.suggestions import did_you_mean

Entry = dict[str, object]

PREFIX = "ollama-fleet"
"""What the names of annotations, labels and metadata begin with that describe an instance."""
MAX_MARKS = len(FIELDS) + MAX_LABELS + 1
"""One more than an entry may have: the check of the entry then says so."""
MAX_URL_CHARACTERS = 2_000


class Listing:
    """Collects the entries of one reading, within a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._left_bytes = max_bytes
        self._entry_by_id: dict[str, bytes] = {}

    def add(self, id_: str, entry: Entry) -> None:
        """Add an instance if it is not there yet; an id in the entry goes before the given one.

        Raises:
            SourceError: It is one too many.
        """
        if id_ in self._entry_by_id:
            return
        encoded = msgspec.json.encode({"id": id_} | entry)
        self._left_bytes -= len(encoded)
        if self._left_bytes < 0:
            raise SourceError("lists too many instances (the limit for an inventory); narrow it")
        self._entry_by_id[id_] = encoded

    def body(self) -> bytes:
        """Return the list as JSON; equal entries give equal bytes in whatever order they came."""
        return b"[" + b",".join(entry for _, entry in sorted(self._entry_by_id.items())) + b"]"


class Discovery(Protocol):
    """One way to ask which instances there are."""

    async def fill(self, listing: Listing) -> None:
        """Add all instances to the listing.

        Raises:
            SourceError: They cannot be listed now.
            InputError: They can never be listed as it is set up.
        """
        ...

    async def close(self) -> None:
        """Give back what is held open."""
        ...


class DiscoverySource:
    """The instances that a service discovery knows."""

    may_be_absent = True
    form = Format.HTTP

    def __init__(self, name: str, discovery: Discovery, max_bytes: int) -> None:
        self.name = name
        self._discovery = discovery
        self._max_bytes = max_bytes
        self._digest = b""

    async def read(self) -> bytes | None:
        """Return the list, or None when it is the one that was returned last.

        Raises:
            SourceError: It cannot be had now.
            InputError: It can never be had as it is set up.
        """
        listing = Listing(self._max_bytes)
        await self._discovery.fill(listing)
        body = await asyncio.to_thread(listing.body)
        known, self._digest = self._digest, digest(body)
        return None if known == self._digest else body

    async def close(self) -> None:
        """Give back what is held open."""
        await self._discovery.close()


def described(texts: Mapping[str, str], separator: str) -> Entry:
    """Return what `ollama-fleet` texts say of an instance: fields of that name, and labels."""
    prefix = PREFIX + separator
    marks = {
        # A text may be long; what is cut here is too long for an entry as well.
        name.removeprefix(prefix): text[: MAX_TEXT_CHARACTERS + 1]
        for name, text in texts.items()
        if name.startswith(prefix)
    }
    few = dict(islice(marks.items(), MAX_MARKS))
    fields = {name: text for name, text in few.items() if name in FIELDS}
    return fields | {"labels": {name: text for name, text in few.items() if name not in FIELDS}}


class Parts(NamedTuple):
    """The parts of a URL such as `k8s://llm/pods?selector=app=ollama`."""

    scheme: str
    place: str
    path: str
    options: Mapping[str, str]


def parts_of(url: str, options: Collection[str], example: str) -> Parts:
    """Return the parts of a URL whose query holds some of the options, each once.

    Raises:
        ValueError: It holds others, or what no such URL holds.
    """
    if len(url) > MAX_URL_CHARACTERS or UNPRINTABLE.search(url):
        raise ValueError(f"must be a URL such as {example}")
    scheme, _, rest = url.partition("://")
    before, _, query = rest.partition("?")
    place, _, path = before.partition("/")
    if "@" in before or "#" in url:
        raise ValueError(f"must hold no user, password or fragment, such as {example}")
    found: dict[str, str] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in options:
            known = ", ".join(options)
            raise ValueError(f"has an unknown option{did_you_mean(name, options)}; known: {known}")
        if not text or name in found:
            raise ValueError(f"must give the option {name} once, with a value")
        found[name] = text
    return Parts(scheme.lower(), place, path, found)


BLANKS = re.compile(r"\s+")


def require_ok(reply: Reply, words: str = "") -> None:
    """Refuse an answer that is not 200; quote the server, or its `words` if they are known.

    Raises:
        SourceError: It is none.
    """
    if reply.status == OK:
        return
    if 300 <= reply.status < 400:
        raise SourceError(status_message(reply.status))
    text = UNPRINTABLE.sub(" ", words or reply.body.decode("ascii", "replace"))
    short = BLANKS.sub(" ", text).strip()[:MAX_REASON_CHARACTERS]
    raise SourceError(f"answered {reply.status}{': ' if short else ''}{short}")
