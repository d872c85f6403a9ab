"""Open the runtime of a node, and what probes the instances there."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from pathlib import Path

import msgspec

from ollama_fleet.clock import Clock
from ollama_fleet.extras import install_line
from provisioning.errors import PermanentError
from provisioning.model import Node, RuntimeKind
from provisioning.runtime import cgroups, logs, process
from provisioning.runtime.base import Prober, Runtime
from provisioning.runtime.probe import HttpProber
from provisioning.runtime.process import ProcessRuntime
from provisioning.runtime.simulator import Memory, MemoryProber, MemoryRuntime, SimulatorRuntime

IMPORTS_AT_ONCE = 16
"""Of image archives by one provisioner: a few fill its network and its CPU."""


class RuntimePaths(msgspec.Struct, frozen=True):
    """Where this provisioner keeps the files that runtimes need; no node's entry says it."""

    state_dir: Path
    """Of processes: their records and logs."""
    simulation_token_file: Path
    """Of the process that hosts simulated instances."""
    authority_file: Path | None = None
    """With the next two: how nodes reached over the network, and we, are known."""
    certificate_file: Path | None = None
    key_file: Path | None = None
    pass_environment: tuple[str, ...] = ()
    """Names of our own variables that instances which are processes get too."""


class NodeRuntimes:
    """The runtimes of one fleet's nodes, and what runs on them."""

    def __init__(self, fleet: str, paths: RuntimePaths, clock: Clock) -> None:
        self._fleet = fleet
        self._paths = paths
        self._clock = clock
        self._groups = cgroups.find()
        self._imports = asyncio.Semaphore(IMPORTS_AT_ONCE)
        self._memory = Memory()
        self._memory_prober = MemoryProber(self._memory)
        self._in_memory: set[str] = set()
        """Nodes whose instances are in this process's memory."""
        self._http = HttpProber()

    def open(self, node: Node) -> Runtime:
        """Return a node's runtime; nothing is connected before the first call.

        Raises:
            PermanentError: Something has to be installed or configured first.
        """
        self._in_memory.discard(node.name)
        match node.runtime:
            case RuntimeKind.PROCESS:
                return ProcessRuntime(
                    self._fleet,
                    node.name,
                    state_dir=self._paths.state_dir,
                    environ=os.environ,
                    groups=self._groups,
                    passed=self._paths.pass_environment,
                )
            case RuntimeKind.SIMULATED if node.endpoint:
                token_path = self._paths.simulation_token_file
                return SimulatorRuntime(
                    self._fleet, node.name, endpoint=node.endpoint, token_path=token_path
                )
            case RuntimeKind.SIMULATED:
                self._in_memory.add(node.name)
                return MemoryRuntime(self._memory, node.name)
            case RuntimeKind.CONTAINERD:
                return self._open_containerd(node)

    def log_of(self, node: Node, instance_id: str) -> str:
        """Return the path, on a node, of what an instance writes; empty: it has none."""
        match node.runtime:
            case RuntimeKind.PROCESS:
                folder = process.folder_of(self._paths.state_dir, self._fleet, node.name)
                return str(logs.of_process(folder, instance_id))
            case RuntimeKind.CONTAINERD:
                return str(logs.of_container(self._fleet, instance_id))
            case RuntimeKind.SIMULATED:
                return ""

    def prober(self, node: str) -> Prober:
        """Return what reaches the instances of a node: those in memory are on no network."""
        return self._memory_prober if node in self._in_memory else self._http

    async def close(self) -> None:
        """Close the connections to instances."""
        await self._http.close()

    def _open_containerd(self, node: Node) -> Runtime:
        if importlib.util.find_spec("grpc") is None:
            raise PermanentError(
                f"node {node.name} has containerd, which needs the Python module grpc; "
                f"install it with: {install_line('provisioner')}"
            )
        from provisioning.runtime.containerd.client import Certificates
        from provisioning.runtime.containerd.runtime import ContainerdRuntime

        files = (
            self._paths.authority_file,
            self._paths.certificate_file,
            self._paths.key_file,
        )
        authority, certificate, key = files
        certificates = (
            Certificates(authority, certificate, key) if authority and certificate and key else None
        )
        return ContainerdRuntime(
            self._fleet,
            node.name,
            endpoint=node.endpoint,
            clock=self._clock,
            certificates=certificates,
            imports=self._imports,
        )
