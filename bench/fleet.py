"""The simulated fleet that everything is measured against, as a process of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from bench.bench import Bench, BenchError, python
from provisioning.demo.processes import Children, ChildSpec

T = TypeVar("T")

READY_WITHIN_S = 60.0


class Body(StrEnum):
    """How much an instance says about itself."""

    ARTICLE = "the article's figures"
    FULL = "all figures"
    OLLAMA = "stock Ollama"


OPTIONS: Mapping[Body, tuple[str, ...]] = {
    Body.ARTICLE: ("--article-metrics",),
    Body.FULL: (),
    Body.OLLAMA: ("--mode=ollama",),
}


class Announcement(msgspec.Struct, frozen=True):
    """What the simulator says on its standard output, as far as it is used here."""

    listen_port: int
    control_url: str
    token_file: str


@dataclass(frozen=True, slots=True)
class SimulatedFleet:
    """A fleet that runs."""

    pid: int
    port: int
    """That all instances share; they differ by address."""
    inventory: Path
    control_url: str
    token_file: Path
    children: Children

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns, if the simulator lives as long.

        Raises:
            ChildError: It has ended by itself.
        """
        return await self.children.guard(work)

    async def inject(self, fault: dict[str, object]) -> None:
        """Let a fault befall some instances."""
        await self._change("POST", fault)

    async def kill(self, share: float) -> None:
        """Let a share of the instances die: connections to them are reset."""
        await self.inject({"kind": "kill", "share": share})

    async def heal(self) -> None:
        """Start all dead instances anew."""
        await self._change("DELETE", None)

    async def _change(self, method: str, fault: dict[str, object] | None) -> None:
        headers = {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}
        url = f"{self.control_url}/faults"
        async with aiohttp.ClientSession(headers=headers) as session:
            async with session.request(method, url, json=fault) as answer:
                if not answer.ok:
                    raise BenchError(f"{method} {url}: {answer.status}, {await answer.text()}")


def parse_announcement(output: str) -> Announcement:
    """Return what the one line of JSON among the simulator's words says.

    Raises:
        BenchError: There is no such line.
    """
    for line in output.splitlines():
        if line.startswith("{"):
            return msgspec.json.decode(line, type=Announcement)
    raise BenchError(f"the simulator announced nothing, but said: {output!r}")


def addresses(inventory: Path) -> list[tuple[str, str]]:
    """Return id and base URL of each instance."""
    return [(entry["id"], entry["url"]) for entry in json.loads(inventory.read_bytes())]


@asynccontextmanager
async def simulated_fleet(bench: Bench, body: Body) -> AsyncIterator[SimulatedFleet]:
    """Run a fleet until the block ends."""
    inventory = bench.run_dir / "fleet.json"
    control = f"127.0.0.1:{bench.port('the control API')}"
    spec = ChildSpec(
        "simulator", _command(bench, body, inventory, control), f"http://{control}/-/healthy",
        READY_WITHIN_S,
    )  # fmt: skip
    async with Children(bench.run_dir) as children:
        await children.start(spec)
        said = parse_announcement((bench.run_dir / "simulator.log").read_text())
        yield SimulatedFleet(
            pid=children.pids[spec.name],
            port=said.listen_port,
            inventory=inventory,
            control_url=said.control_url,
            token_file=Path(said.token_file),
            children=children,
        )


def _command(bench: Bench, body: Body, inventory: Path, control: str) -> tuple[str, ...]:
    return python(
        "ollama_fleet",
        "simulate",
        f"--instances={bench.n_instances}",
        "--listen-port=0",
        f"--control.listen-address={control}",
        f"--control.token-file={bench.run_dir / 'simulate.token'}",
        f"--inventory={inventory}",
        *OPTIONS[body],
    )
