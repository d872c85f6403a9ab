"""The article's experiment: 1, 2, 3 requests at once at real servers, with and without a limit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollama_fleet.tables import table
from provisioning.demo.llama import MODEL_NAME
from tests.load.running import load
from tests.load.stack import stack

N_SERVERS = 2
AT_ONCE = (1, 2, 3)
ONE_AT_ONCE = {"default": {"rate": 1000, "burst": 1000, "concurrency": 1}}
HEAD = ("at once", "limit", "requests", "p50", "p99", "tokens/s", "failed", "rejected")


@dataclass(frozen=True, slots=True)
class Way:
    """How requests reach the servers."""

    name: str
    wait: str | None
    """How long the gateway lets a request wait for a free server; None: there is no gateway."""


WAYS = (
    Way("none", None),
    Way("1, others wait", "60s"),
    Way("1, others get 429", "0"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """What users saw of one way."""

    at_once: int
    way: Way
    report: dict[str, Any]

    def cells(self) -> Sequence[str]:
        """Return the row of the table."""
        text, found = self.report["text"], self.report
        return (
            str(self.at_once),
            self.way.name,
            f"{text['n']:,}",
            *(f"{1000 * text[name]:,.0f} ms" for name in ("p50_s", "p99_s")),
            f"{found['tokens_per_s']:.1f}",
            f"{100 * found['failed_ratio']:.1f}%",
            f"{100 * found['rejected_ratio']:.1f}%",
        )


async def rows(folder: Path, inventory: Path, run_time: str) -> AsyncIterator[Row]:
    """Load the servers in each way; they have as many slots as users at once, one after another."""
    for way in WAYS:
        for at_once in AT_ONCE:
            place = folder / f"{WAYS.index(way)}-{at_once}"
            place.mkdir()
            yield Row(at_once, way, await _seen(place, inventory, way, at_once, run_time))


async def _seen(
    folder: Path, inventory: Path, way: Way, at_once: int, run_time: str
) -> dict[str, Any]:
    if way.wait is None:
        return await _loaded(f"--instances={inventory}", at_once, run_time)
    sections = {"limits": ONE_AT_ONCE, "requests": {"wait": way.wait}}
    async with stack(folder, inventory, **sections) as running:
        return await _loaded(f"--gateway.url={running.gateway_url}", at_once, run_time)


async def _loaded(whom: str, at_once: int, run_time: str) -> dict[str, Any]:
    ended = await load(
        whom,
        f"--model={MODEL_NAME}",
        "--api=openai",
        "--tokens=16",
        f"--users={N_SERVERS * at_once}",
        "--spawn-rate=100",
        f"--run-time={run_time}",
        "--wait=0",
        "--json",
    )
    assert ended.status in {0, 1}, ended.errors
    return ended.report


def to_text(found: Sequence[Row]) -> str:
    """Return the table."""
    return table(HEAD, [row.cells() for row in found])
