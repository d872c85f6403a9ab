"""Where logs are and how instances are reached, by the kind of their node."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ollama_fleet.clock import SystemClock
from provisioning.model import Node, Probe, RuntimeKind
from provisioning.runtime.factory import NodeRuntimes, RuntimePaths
from provisioning.workload import container_spec
from tests.ports import free_port
from tests.provisioning.making import instance, node, pool


@pytest.mark.parametrize(
    ("kind", "endpoint", "path"),
    [
        (RuntimeKind.PROCESS, "", "{state}/lab/n1/logs/chat-00001.log"),
        (
            RuntimeKind.CONTAINERD,
            "unix:///run/containerd/containerd.sock",
            "/var/log/ollama-fleet/lab/chat-00001.log",
        ),
        (RuntimeKind.SIMULATED, "", ""),
        (RuntimeKind.SIMULATED, "http://127.0.0.1:9", ""),
    ],
)
async def test_a_log_is_where_the_runtime_of_its_node_has_it(
    tmp_path: Path, kind: RuntimeKind, endpoint: str, path: str
) -> None:
    runtimes = NodeRuntimes("lab", RuntimePaths(tmp_path, tmp_path / "token"), SystemClock())
    where = Node(name="n1", runtime=kind, endpoint=endpoint, cpus=1.0, memory_bytes=2**30)
    runtime = runtimes.open(where)

    expected = path.format(state=tmp_path)
    assert expected == runtimes.log_of(where, "chat-00001") == runtime.log_of("chat-00001")

    await runtime.close()
    await runtimes.close()


async def test_in_memory_and_real_instances_at_one_address_are_never_taken_for_each_other(
    tmp_path: Path,
) -> None:
    runtimes = NodeRuntimes("test", RuntimePaths(tmp_path, tmp_path / "token"), SystemClock())
    memory = node("memory", address="127.0.0.1")
    opened = [
        runtimes.open(one)
        for one in (
            memory,
            Node(name="real", runtime=RuntimeKind.PROCESS, cpus=1.0, memory_bytes=2**30),
        )
    ]
    container = container_spec("test", pool(), memory, instance(node="memory", port=free_port()))
    await opened[0].start(container)

    assert "" == await runtimes.prober("memory").probe(container.host, container.port, Probe())
    assert "cannot be asked" in await runtimes.prober("real").probe(
        container.host, container.port, Probe()
    )
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        stranger.setblocking(False)
        port = stranger.getsockname()[1]
        assert "simulated" in await runtimes.prober("memory").probe("127.0.0.1", port, Probe())
        with pytest.raises(BlockingIOError):
            stranger.accept()

    for runtime in opened:
        await runtime.close()
    await runtimes.close()
