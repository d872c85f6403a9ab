"""Real nginx in front of servers that count: which instance gets which request."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import IncompleteRead, RemoteDisconnected
from pathlib import Path

import pytest
from click.testing import CliRunner

from provisioning.gateway.cli import gateway as command
from tests.ports import free_port
from tests.provisioning.gateway.nginx import MODEL, Gateway, Listed, running_gateway, wait_until
from tests.provisioning.gateway.series import wait_total
from tests.provisioning.gateway.servers import Server, running_servers

pytestmark = pytest.mark.slow

ASK = {"model": MODEL, "prompt": "Why?", "stream": False}
ROOM = {"rate": 1 / 3000, "concurrency": 10}
"""A client may have its answer before the gateway has the place free again."""
PLENTY = {"default": {"rate": 1000, "burst": 1000, "concurrency": 10}}
OTHER = "qwen3:4b"


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    with running_servers(3) as running:
        yield running


def listed(servers: list[Server]) -> list[Listed]:
    return [Listed(server.port) for server in servers]


def counts(servers: list[Server]) -> list[int]:
    return [server.n_requests for server in servers]


def ask(gateway: Gateway, n: int, **changes: object) -> list[int]:
    return [gateway.ask("/api/generate", ASK | changes)[0] for _ in range(n)]


def test_requests_take_turns(servers: list[Server], tmp_path: Path) -> None:
    with running_gateway(tmp_path, listed(servers), limits=PLENTY) as gateway:
        answers = ask(gateway, 6)

    assert [200] * 6 == answers
    assert [2, 2, 2] == counts(servers)


def test_a_model_is_asked_where_it_is_loaded_and_then_where_it_is_installed(
    servers: list[Server], tmp_path: Path
) -> None:
    loaded, installed, neither = servers
    instances = [
        Listed(loaded.port, installed=(MODEL, OTHER)),
        Listed(installed.port, loaded=(), installed=(MODEL,)),
        Listed(neither.port, loaded=(OTHER,)),
    ]
    with running_gateway(
        tmp_path, instances, limits={"default": ROOM | {"burst": 2}}, requests={"wait": "0"}
    ) as gateway:
        answers = ask(gateway, 2)
        assert [2, 0, 0] == counts(servers)
        answers += ask(gateway, 3)

    assert [200, 200, 200, 200, 429] == answers
    assert [2, 2, 0] == counts(servers)


def test_a_name_without_tag_is_the_latest_one(servers: list[Server], tmp_path: Path) -> None:
    instances = [Listed(server.port, loaded=("mistral",)) for server in servers]
    with running_gateway(tmp_path, instances) as gateway:
        assert [200] == ask(gateway, 1, model="mistral")
        assert [200] == ask(gateway, 1, model="mistral:latest")
        assert [404] == ask(gateway, 1, model="mistral:7b")


def test_a_refused_connection_leads_to_the_next_instance_and_is_not_tried_again_soon(
    servers: list[Server], tmp_path: Path
) -> None:
    """By either worker."""
    with running_gateway(
        tmp_path,
        [*listed(servers), Listed(free_port())],
        limits=PLENTY,
        ejection={"refused": "1h"},
    ) as gateway:
        answers = ask(gateway, 40)
        found = wait_total(gateway, 40)

    assert [200] * 40 == answers
    assert 1 == found.total("retries_total", reason="refused")


def test_a_busy_instance_leads_to_the_next_one(servers: list[Server], tmp_path: Path) -> None:
    servers[0].status = 503
    with running_gateway(
        tmp_path, listed(servers), limits=PLENTY, ejection={"busy": "1h"}
    ) as gateway:
        answers = ask(gateway, 10)

    assert [200] * 10 == answers
    assert 1 == servers[0].n_requests


def test_a_connection_broken_before_the_first_byte_leads_to_the_next_instance(
    servers: list[Server], tmp_path: Path
) -> None:
    servers[0].raw = b""
    with running_gateway(tmp_path, listed(servers), limits=PLENTY) as gateway:
        assert [200] * 10 == ask(gateway, 10)


def test_nothing_is_tried_again_after_the_first_byte(servers: list[Server], tmp_path: Path) -> None:
    for server in servers:
        server.raw = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf an answer"
    with running_gateway(tmp_path, listed(servers), limits=PLENTY) as gateway:
        with pytest.raises(IncompleteRead):
            gateway.ask("/api/generate", ASK)

    assert 1 == sum(counts(servers))


def test_a_generation_that_takes_too_long_is_not_tried_again(
    servers: list[Server], tmp_path: Path
) -> None:
    for server in servers:
        server.pause_s = 600.0
    with running_gateway(
        tmp_path, listed(servers), requests={"answer_timeout": "300ms"}
    ) as gateway:
        status, _, body = gateway.ask("/api/generate", ASK)
        wait_until(lambda: sum(counts(servers)) > 0)
        found = wait_total(gateway, 1)

    assert (504, b'{"error":"the instance did not answer in time"}\n') == (status, body)
    assert 1 == sum(counts(servers))
    assert 0 == found.total("retries_total")


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_an_error_of_an_instance_reaches_the_client(
    servers: list[Server], tmp_path: Path, path: str
) -> None:
    for server in servers:
        server.status = 500
    with running_gateway(tmp_path, listed(servers)) as gateway:
        status, _, body = gateway.ask(path, ASK)

    assert 500 == status
    assert body.startswith(b'{"port": ')
    assert 1 == sum(counts(servers))


def test_without_any_instance_that_answers_the_client_learns_so(tmp_path: Path) -> None:
    instances = [Listed(free_port()) for _ in range(3)]
    with running_gateway(tmp_path, instances, requests={"tries": 2}) as gateway:
        status, headers, body = gateway.ask("/v1/completions", ASK)

    assert (502, "application/json") == (status, headers["Content-Type"])
    assert b'"no instance could be reached"' in body


def test_an_ejected_instance_is_better_than_none(tmp_path: Path) -> None:
    with running_servers(1) as (server,):
        server.status = 503
        with running_gateway(
            tmp_path, [Listed(server.port)], limits=PLENTY, ejection={"busy": "1h"}
        ) as gateway:
            ask(gateway, 1)
            server.status = 200

            assert [200] * 3 == ask(gateway, 3)


def test_an_answer_may_not_steer_the_gateway(servers: list[Server], tmp_path: Path) -> None:
    for server in servers:
        server.headers = {"X-Accel-Redirect": "/api/tags", "X-Accel-Limit-Rate": "1"}
    with running_gateway(tmp_path, listed(servers)) as gateway:
        status, _, body = gateway.ask("/api/generate", ASK)

    assert 200 == status
    assert body.startswith(b'{"port": ')


def test_no_client_sees_garbage_that_is_no_answer(servers: list[Server], tmp_path: Path) -> None:
    """Its connection ends where nginx had taken the garbage for an answer."""
    servers[0].raw = b"\x00\xffnot HTTP\r\n\r\n"
    servers[1].raw = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000
    with running_gateway(tmp_path, listed(servers), limits=PLENTY) as gateway:
        found = [_status_or_end(gateway) for _ in range(12)]

    assert set(found) <= {200, 502, None}
    assert servers[0].n_requests > 0
    assert found.count(200) >= 4


def _status_or_end(gateway: Gateway) -> int | None:
    try:
        return ask(gateway, 1)[0]
    except RemoteDisconnected:
        return None


def test_an_instance_that_is_listed_again_has_not_forgotten_its_requests(
    servers: list[Server], tmp_path: Path
) -> None:
    """One that took its place meanwhile begins with none."""
    limits = {"default": ROOM | {"burst": 1}}
    with running_gateway(
        tmp_path, listed(servers), limits=limits, requests={"wait": "0"}
    ) as gateway:
        assert [200] * 3 == ask(gateway, 3)
        with running_servers(1) as (other,):
            gateway.use([*listed(servers)[:1], Listed(other.port)])
            assert [200, 429] == ask(gateway, 2)
        gateway.use(listed(servers))

        assert [429] * 4 == ask(gateway, 4)


@pytest.mark.parametrize("sticky", [True, False])
def test_a_developer_gets_the_instance_assigned_to_them_first_by_setting(
    servers: list[Server], tmp_path: Path, *, sticky: bool
) -> None:
    """Then any other, when theirs is at its limit."""
    own, *others = servers
    keys = tmp_path / "keys.json"
    made = CliRunner().invoke(command, ("keys", "add", "--file", str(keys), "ann"))
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    instances = [Listed(own.port, developer="ann"), *listed(others)]
    with running_gateway(
        tmp_path,
        instances,
        sticky=sticky,
        keys={"file": str(keys)},
        limits={"default": ROOM | {"burst": 3}},
    ) as gateway:
        answers = [gateway.ask("/api/generate", ASK, headers)[0] for _ in range(3)]
        assert ([3, 0, 0] if sticky else [1, 1, 1]) == counts(servers)
        answers += [gateway.ask("/api/generate", ASK, headers)[0] for _ in range(4)]

    assert [200] * 7 == answers
