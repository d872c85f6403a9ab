"""A real provisioner that has nothing to make, for tests of what watches one."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from provisioning.demo import processes
from provisioning.demo.processes import Children, ChildSpec

SPEC = """
name: fleet
nodes: [{name: here, runtime: process, cpus: 1, memory: 1GiB}]
pools: [{name: llama, model: llama3.1:8b, count: 0}]
"""


def environ(folder: Path, address: str) -> dict[str, str]:
    """Return the variables with which commands find it."""
    return {
        "OLLAMA_FLEET_INSTANCES_PROVISIONER_URL": f"http://{address}",
        "OLLAMA_FLEET_INSTANCES_PROVISIONER_TOKEN_FILE": str(folder / "provisioner.token"),
    }


async def start(children: Children, folder: Path, address: str) -> None:
    """Start it as one of the processes, and give it its specification."""
    await children.start(_provisioner(folder, address))
    await _apply(folder, address)


def _provisioner(folder: Path, address: str) -> ChildSpec:
    command = processes.our_command(
        *("provisioner", "run", "--store.url=memory:", f"--web.listen-address={address}"),
        *(f"--state-dir={folder}", f"--web.token-file={folder / 'provisioner.token'}"),
    )
    return ChildSpec("provisioner", command, f"http://{address}/-/ready")


async def _apply(folder: Path, address: str) -> None:
    spec = folder / "spec.yml"
    spec.write_text(SPEC)
    command = processes.our_command("provisioner", "apply", "--yes", str(spec))
    ours = {**processes.our_environ(os.environ), **environ(folder, address)}
    applied = await asyncio.create_subprocess_exec(*command, env=ours)

    assert 0 == await applied.wait()
