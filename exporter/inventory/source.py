"""Say what a source of instances is, and how much one may send."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from exporter.inventory.formats import Format


class Source(Protocol):
    """One place that lists instances."""

    @property
    def name(self) -> str:
        """Return what messages and series call the source: its path or URL, without a query."""
        ...

    @property
    def form(self) -> Format:
        """Return how the source writes its list."""
        ...

    @property
    def may_be_absent(self) -> bool:
        """Return whether the exporter starts without it: true for what another program serves."""
        ...

    async def read(self) -> bytes | None:
        """Return the whole document, or None when it is the one that was returned last.

        Raises:
            SourceError: It cannot be read now. The text says what was seen, without the name.
            InputError: It can never be read as it is set up.
        """
        ...

    async def close(self) -> None:
        """Give back what the source holds open."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """The bounds of one source, and for a URL how to speak to it."""

    timeout_s: float = 10.0
    """For one whole HTTP exchange, from resolving the name to the last byte."""
    max_body_bytes: int = 64 * 2**20
    token_file: Path | None = None
    """Holds a bearer token, sent to this source only; read each time, so it may be rotated."""
    ca_file: Path | None = None
    """Certificates (PEM) to verify the server by, in place of the system's."""
    service_account: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """Where Kubernetes mounts the token and the certificates for its own API."""


def digest(body: bytes) -> bytes:
    """Return a fingerprint by which a body is known again without keeping it."""
    return hashlib.blake2b(body, digest_size=32).digest()


QUERY = re.compile(r"\?[^|]*")


def public_names(texts: Iterable[str]) -> list[str]:
    """Return what messages and series call sources.

    A query may be a token and is hidden. Sources that differ only there get a number.
    """
    n_by_name: Counter[str] = Counter()
    names: list[str] = []
    for text in texts:
        name = QUERY.sub("?***", text) if "http" in text[:4].lower() else text
        n_by_name[name] += 1
        names.append(name if n_by_name[name] == 1 else f"{name} ({n_by_name[name]})")
    return names
