"""The programs behind the page: a simulated fleet and the exporter, as processes."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from provisioning.demo.processes import Children, ChildSpec
from tests.ports import free_port, free_ports

READY_WITHIN_S = 90.0


@dataclass(frozen=True, slots=True)
class Simulation:
    """A simulated fleet that runs."""

    inventory: Path
    control_url: str
    token_file: Path

    def ids(self) -> list[str]:
        """Return the ids of all instances."""
        return [entry["id"] for entry in json.loads(self.inventory.read_bytes())]

    async def inject(self, kind: str, **parameters: object) -> list[str]:
        """Let a fault befall instances; return their ids."""
        fault: dict[str, Any] = await self._change("POST", {"kind": kind, **parameters})
        ids: list[str] = fault["instance_ids"]
        return ids

    async def heal(self) -> None:
        """End all faults."""
        await self._change("DELETE", None)

    async def _change(self, method: str, fault: dict[str, object] | None) -> Any:
        headers = {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}
        async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as session:
            url = f"{self.control_url}/faults"
            async with session.request(method, url, json=fault) as answer:
                return await answer.json(content_type=None)


@asynccontextmanager
async def simulation(run_dir: Path, n_instances: int, *options: str) -> AsyncIterator[Simulation]:
    """Run a simulated fleet, a hundred instances on each node."""
    port, control_port = free_ports(2)
    fleet = Simulation(
        run_dir / "fleet.json", f"http://127.0.0.1:{control_port}", run_dir / "simulate.token"
    )
    command = (
        *_program("simulate"),
        f"--instances={n_instances}",
        f"--listen-port={port}",
        f"--inventory={fleet.inventory}",
        f"--control.listen-address=127.0.0.1:{control_port}",
        f"--control.token-file={fleet.token_file}",
        *options,
    )
    spec = ChildSpec("simulate", command, f"{fleet.control_url}/-/healthy", READY_WITHIN_S)
    async with Children(run_dir) as children:
        await children.start(spec)
        yield fleet


@asynccontextmanager
async def exporter(
    run_dir: Path,
    inventory: Path | str,
    *options: str,
    port: int | None = None,
    interval_s: int = 1,
    ready_path: str = "/-/ready",
) -> AsyncIterator[str]:
    """Run the exporter over an inventory; give its base URL once it is ready.

    An answer may take nearly as long as there is time: the tests' machine is a busy one.
    """
    url = f"http://127.0.0.1:{port or free_port()}"
    command = (
        *_program("exporter"),
        f"--inventory={inventory}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--inventory.refresh-interval=500ms",
        f"--poll.interval={interval_s}s",
        f"--poll.health-timeout={950 * interval_s}ms",
        f"--poll.metrics-timeout={980 * interval_s}ms",
        *options,
    )
    async with Children(run_dir) as children:
        await children.start(ChildSpec("exporter", command, f"{url}{ready_path}", READY_WITHIN_S))
        yield url


def write_inventory(path: Path, n: int, **more: str) -> Path:
    """Write an inventory of instances of which none answers."""
    port = free_port()
    names = {"node": "node-1", "model": "m", **more}
    listed = [
        {"id": f"i{number}", "url": f"http://127.0.0.1:{port}", "engine": "fleet", **names}
        for number in range(1, n + 1)
    ]
    path.write_text(json.dumps(listed))
    return path


def _program(name: str) -> tuple[str, ...]:
    return sys.executable, "-P", "-m", "ollama_fleet", name
