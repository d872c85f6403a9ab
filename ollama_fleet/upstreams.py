"""Write the upstream list: the instances that a gateway may send requests to, as JSON.

    {"format": 1,
     "models": ["llama3.1:8b", …],
     "nodes": ["rack1-n1", …],
     "instances": [["id", "10.0.0.7", 11434, 0, "ollama", [0], [0, 3], "anna"], …]}

Each instance has its id, its IP address, its port, the index of its node, its engine, the indexes
of the models in its memory, those of the models on its disk (empty: unknown), and the developer
that it is assigned to (empty: none). Indexes count from 0. Instances are sorted by id. The same
instances give the same bytes.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, TypeAlias

import msgspec

FORMAT = 1
PATH = "/upstreams"
JSON = "application/json"
LATEST = ":latest"
IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")

Indexes: TypeAlias = tuple[int, ...]
Entry: TypeAlias = tuple[str, str, int, int, str, Indexes, Indexes, str]
"""Id, address, port, node, engine, loaded and installed models, developer."""


class Document(msgspec.Struct, frozen=True):
    """The upstream list as it is sent."""

    format: int
    models: tuple[str, ...]
    """Without `:latest`, as everywhere."""
    nodes: tuple[str, ...]
    instances: list[Any]
    """Each an `Entry`; OpenAPI has no tuples."""


def ip_address(host: str) -> str | None:
    """Return a host that is an IP address which a gateway can connect to; None for a name."""
    if IPV4.fullmatch(host) is None and (":" not in host or "%" in host):
        return None
    try:
        return ipaddress.ip_address(host).compressed if ":" in host else host
    except ValueError:
        return None


class UpstreamList:
    """An upstream list in the making; about 2 µs for each instance."""

    def __init__(self) -> None:
        self._models: dict[str, int] = {}
        self._nodes: dict[str, int] = {}
        self._indexes: dict[tuple[str, ...], Indexes] = {}
        """By the models of an instance, which many share."""
        self._entries: list[Entry] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(
        self,
        id_: str,
        address: str,
        port: int,
        *,
        node: str,
        engine: str,
        loaded: tuple[str, ...],
        installed: tuple[str, ...],
        developer: str,
    ) -> None:
        """Add an instance; they come in the order of their ids."""
        on_node = self._nodes.setdefault(node, len(self._nodes))
        entry = (
            *(id_, address, port, on_node, engine),
            *(self._indexes_of(loaded), self._indexes_of(installed)),
            developer,
        )
        self._entries.append(entry)

    def encode(self) -> bytes:
        """Return the list as JSON."""
        document = Document(FORMAT, tuple(self._models), tuple(self._nodes), self._entries)
        return msgspec.json.encode(document)

    def _indexes_of(self, models: tuple[str, ...]) -> Indexes:
        indexes = self._indexes.get(models)
        if indexes is None:
            # In any order that a server gives them, they are the same list.
            names = sorted({model.removesuffix(LATEST) for model in models} - {""})
            known = self._models
            indexes = tuple([known.setdefault(name, len(known)) for name in names])
            self._indexes[models] = indexes
        return indexes
