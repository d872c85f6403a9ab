from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioning.stack.commands import Plan
from provisioning.stack.rundir import RunDir

FreePorts = Callable[[int], list[int]]


@pytest.fixture
def free_ports() -> FreePorts:
    """Return n different ports on which nothing listens."""

    def choose(n: int) -> list[int]:
        sockets = [socket.socket() for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        return ports

    return choose


@pytest.fixture
def free_port(free_ports: FreePorts) -> int:
    return free_ports(1)[0]


@pytest.fixture
def plan() -> Plan:
    return Plan(
        run_dir=RunDir(Path("/runs/my demo")),
        n_simulated=10_000,
        simulated_port=11_450,
        control_port=11_451,
        llama_ports=(11_460, 11_461),
        model="gemma3:270m",
        model_file=Path("/cache/model.gguf"),
        exporter_port=11_440,
        prometheus_port=9_090,
        prometheus_binary=Path("/usr/bin/prometheus"),
        poll_interval_s=5,
    )
