"""A clock and a source that do what a test tells them."""

from __future__ import annotations

import asyncio
import json

from exporter.inventory.formats import Format
from exporter.model import Target


class HeldClock:
    """A clock that moves when it is told to; sleeping moves it."""

    def __init__(self, now_s: float = 1_000_000.0) -> None:
        self.now_s = now_s

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s
        await asyncio.sleep(0)


class ToldSource:
    """A source whose next reading a test sets: bytes, None for unchanged, or what it raises."""

    form = Format.JSON

    def __init__(self, name: str, *, may_be_absent: bool = False) -> None:
        self.name = name
        self.may_be_absent = may_be_absent
        self.next: bytes | Exception | None = b"[]"
        self.later: list[bytes] = []
        """What comes after `next`, one for each reading."""
        self.was_read = asyncio.Event()
        self.n_closed = 0

    async def read(self) -> bytes | None:
        said, self.next = self.next, self.later.pop(0) if self.later else None
        self.was_read.set()
        if isinstance(said, Exception):
            raise said
        return said

    async def close(self) -> None:
        self.n_closed += 1


def entry(id_: str, **more: object) -> dict[str, object]:
    """Return an inventory entry that is good but for what `more` adds."""
    return {"id": id_, "url": f"http://{id_}.test:11434"} | more


def ids(targets: tuple[Target, ...]) -> list[str]:
    return [target.id for target in targets]


def fleet(n_instances: int) -> bytes:
    """Return a JSON list of that many instances, each with all that an entry may have."""
    return json.dumps(
        [
            {
                "id": f"node-{i // 800:03d}-{i:06d}",
                "url": f"http://10.0.{i // 250 % 250}.{i % 250}:{11_434 + i % 100}",
                "node": f"node-{i // 800:03d}",
                "model": "llama3.1:8b",
                "engine": "ollama",
                "state": "running",
                "developer": f"dev{i % 1_200}",
                "labels": {"rack": f"r{i % 40}", "zone": "a"},
            }
            for i in range(n_instances)
        ],
        indent=1,
    ).encode()
