"""Instances for load tests: a simulated fleet of stock Ollama, and real LLM servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from provisioning.demo.llama import MODEL_NAME
from provisioning.demo.processes import Children, ChildSpec, our_command
from tests.load.running import write_instances
from tests.ports import free_port, free_ports


@asynccontextmanager
async def simulated(
    folder: Path, *, n_instances: int, time_scale: float = 1.0
) -> AsyncIterator[Path]:
    """Run a fleet until the block ends; give its inventory."""
    control, inventory = free_port(), folder / "fleet.json"
    command = our_command(
        "simulate",
        "--mode=ollama",
        f"--instances={n_instances}",
        f"--time-scale={time_scale}",
        f"--listen-port={free_port()}",
        f"--inventory={inventory}",
        f"--control.listen-address=127.0.0.1:{control}",
        f"--control.token-file={folder / 'simulate.token'}",
    )
    async with Children(folder) as children:
        await children.start(
            ChildSpec("simulate", command, f"http://127.0.0.1:{control}/-/healthy")
        )
        yield inventory


@asynccontextmanager
async def real(folder: Path, model: Path, *, n: int) -> AsyncIterator[Path]:
    """Run LLM servers of one model until the block ends; give their inventory."""
    ports = free_ports(n)
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    async with Children(folder) as children:
        await children.start(
            *(
                ChildSpec(
                    f"llama-{port}",
                    our_command("llama-server", f"--model={model}", f"--port={port}"),
                    f"http://127.0.0.1:{port}/health",
                )
                for port in ports
            )
        )
        yield write_instances(folder / "servers.json", *urls, model=MODEL_NAME, engine="llamacpp")
