"""Real nginx in front of servers that count: which instance gets which request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.provisioning.gateway.nginx import MODEL, Listed, running_gateway
from tests.provisioning.gateway.servers import Server, running_servers

ASK = {"model": MODEL, "prompt": "Why?", "stream": False}
pytestmark = pytest.mark.slow


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    with running_servers(3) as running:
        yield running


def listed(servers: list[Server]) -> list[Listed]:
    return [Listed(server.port) for server in servers]


def test_requests_take_turns(servers: list[Server], tmp_path: Path) -> None:
    with running_gateway(tmp_path, listed(servers)) as gateway:
        answers = [gateway.ask("/api/generate", ASK)[0] for _ in range(6)]

    assert [200] * 6 == answers
    assert [2, 2, 2] == [server.n_requests for server in servers]
