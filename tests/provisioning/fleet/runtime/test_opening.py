"""Where logs are, said without opening a node: the same as its runtime says and does."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioning.fleet.clock import SystemClock
from provisioning.fleet.fleet import Node, RuntimeKind
from provisioning.fleet.runtime.opening import Local, Machines


@pytest.mark.parametrize(
    ("kind", "endpoint", "path"),
    [
        (RuntimeKind.PROCESS, "", "{state}/lab/n1/logs/chat-00001.log"),
        (
            RuntimeKind.CONTAINERD,
            "unix:/run/containerd/containerd.sock",
            "/var/log/ollama-fleet/lab/chat-00001.log",
        ),
        (RuntimeKind.SIMULATED, "", ""),
        (RuntimeKind.SIMULATED, "http://127.0.0.1:9", ""),
    ],
)
async def test_a_log_is_where_the_runtime_of_its_node_has_it(
    tmp_path: Path, kind: RuntimeKind, endpoint: str, path: str
) -> None:
    machines = Machines("lab", Local(tmp_path, tmp_path / "token"), SystemClock())
    node = Node("n1", kind, endpoint=endpoint)
    runtime = machines.open(node)

    expected = path.format(state=tmp_path)
    assert expected == machines.log_of(node, "chat-00001") == runtime.log_of("chat-00001")

    await runtime.close()
    await machines.close()
