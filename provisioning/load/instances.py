"""The instances that users ask: read from a provisioner, an exporter or a file, and swapped."""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from ollama_fleet.files import UnreadableFileError, read_regular
from ollama_fleet.logs import escaped
from ollama_fleet.urls import SCHEMES
from provisioning.load.settings import LoadTestError

MAX_LIST_BYTES = 256_000_000
"""100,000 instances as an exporter lists them, twice over."""
CHUNK_BYTES = 65_536
ANSWER_S, LIST_S = 10.0, 60.0
"""How long to wait for something of a list, and for all of it."""
REST_S = 10.0
"""How long nobody asks an instance that failed, unless all others failed too."""


class Instance(msgspec.Struct, frozen=True):
    """An instance, as provisioner and exporter list it; other fields are ignored."""

    id: str
    url: str
    model: str = ""
    engine: str = ""
    state: str = "running"
    status: str = "healthy"
    """Only exporters say it."""

    @property
    def may_be_asked(self) -> bool:
        """Return whether it takes requests, as far as the list knows."""
        has_url = self.url.startswith(SCHEMES)
        return has_url and self.state == "running" and self.status == "healthy"


LIST = msgspec.json.Decoder(list[Instance])


def read_instances(
    source: str, models: Sequence[str] = (), tls: ssl.SSLContext | None = None
) -> list[Instance]:
    """Return the instances that may be asked; those of some models only, where any are named.

    Raises:
        LoadTestError: The list cannot be read, or no such instance is in it.
    """
    try:
        listed = LIST.decode(_body(source, tls))
    except (OSError, UnreadableFileError, ValueError, http.client.HTTPException) as error:
        raise LoadTestError(
            f"cannot read instances from {source}: {escaped(str(error))}"
        ) from error
    found = [one for one in listed if one.may_be_asked and one.model in (models or (one.model,))]
    if not found:
        wanted = f" of the models {', '.join(models)}" if models else ""
        raise LoadTestError(
            f"none of {len(listed):,} instances in {source} has an http URL and is running and "
            f"healthy{wanted}"
        )
    return found


def _body(source: str, tls: ssl.SSLContext | None) -> bytes:
    if not source.startswith(SCHEMES):
        return read_regular(Path(source), MAX_LIST_BYTES)[0]
    body, deadline_s = bytearray(), time.monotonic() + LIST_S
    with urllib.request.urlopen(source, timeout=ANSWER_S, context=tls) as answer:  # noqa: S310 - see above
        while chunk := answer.read1(CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_LIST_BYTES:
                raise ValueError(f"it is larger than {MAX_LIST_BYTES:,} bytes")
            if time.monotonic() > deadline_s:
                raise ValueError(f"it did not come within {LIST_S:.0f} s")
    return bytes(body)


class Pool:
    """Gives users their instances, in turn, and another one when an instance fails."""

    def __init__(
        self, instances: Sequence[Instance], now: Callable[[], float], start_at: float = 0.0
    ) -> None:
        """Take the instances; each worker begins elsewhere, 0 to 1, so that they spread.

        `now` gives seconds that never go back.
        """
        self._instances = instances
        self._now = now
        self._next = int(start_at * len(instances)) - 1
        self._rests_until: dict[str, float] = {}

    def replace(self, instances: Sequence[Instance]) -> None:
        """Give out those of a newer list from now on; users keep theirs."""
        self._instances = instances

    def take(self) -> Instance:
        """Return the next instance that did not fail lately; any, where all did."""
        for _ in self._instances:
            instance = self._following()
            if self._rests_until.get(instance.id, 0.0) <= self._now():
                return instance
        return self._following()

    def swap(self, failed: Instance) -> Instance:
        """Return another instance than the one that failed, which rests."""
        self._rests_until[failed.id] = self._now() + REST_S
        return self.take()

    def _following(self) -> Instance:
        self._next = (self._next + 1) % len(self._instances)
        return self._instances[self._next]
