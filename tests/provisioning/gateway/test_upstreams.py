"""Real nginx: the list of instances changes without a reload, and a bad one changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.provisioning.gateway.nginx import (
    MODEL,
    Gateway,
    Listed,
    Source,
    running_gateway,
    running_nginx,
    upstreams,
    wait_until,
)
from tests.provisioning.gateway.servers import Server, running_servers

pytestmark = pytest.mark.slow

ASK = {"model": MODEL, "prompt": "Why?", "stream": False}
PLENTY = {"default": {"rate": 1000, "burst": 1000, "concurrency": 100}}
ROW = ["a", "127.0.0.1", 1, 0, "ollama", [0], [], ""]


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    with running_servers(2) as running:
        yield running


def listing(**changes: object) -> bytes:
    whole = {"format": 1, "models": [MODEL], "nodes": ["n1"], "instances": [ROW]}
    return json.dumps(whole | changes).encode()


def with_row(index: int, value: object) -> bytes:
    row: list[object] = [*ROW]
    row[index] = value
    return listing(instances=[row])


BAD = {
    "empty": listing(instances=[]),
    "nothing": b"",
    "garbage": b"\x00\xff{",
    "a web page": b"<html>",
    "another format": listing(format=2),
    "a number": b"7",
    "no models": listing(models=None),
    "a model that is no text": listing(models=[1]),
    "instances that are no rows": listing(instances=[1, 2]),
    "listed twice": listing(instances=[ROW, ROW]),
    "a name for an address": with_row(1, "example.org"),
    "no port": with_row(2, 0),
    "a large port": with_row(2, 65_536),
    "half a port": with_row(2, 1.5),
    "a text for a port": with_row(2, "80"),
    "an unknown node": with_row(3, 1),
    "an unknown model": with_row(5, [1]),
    "a negative model": with_row(6, [-1]),
    "no list of models": with_row(5, "all"),
    "a number for a developer": with_row(7, 1),
    "too many": listing(instances=[ROW] * 200_001),
    "huge": b" " * (64 * 1024**2 + 1),
}


def test_a_bad_list_changes_nothing_and_the_log_says_why(
    servers: list[Server], tmp_path: Path
) -> None:
    with running_gateway(tmp_path, [Listed(servers[0].port)], limits=PLENTY) as gateway:
        wrong = {}
        for name, body in BAD.items():
            gateway.source.body = body
            gateway.source.wait_read()
            status, _, _ = gateway.ask("/api/generate", ASK)
            if status != 200:
                wrong[name] = status
        log = gateway.log.read_text()

    assert {} == wrong
    for why in ("it is empty", "format 1", "200,000 instances", "64 MB", "number 1 is invalid"):
        assert f"{why}" in log


def test_a_new_list_counts_in_every_worker_without_a_reload(
    servers: list[Server], tmp_path: Path
) -> None:
    old, new = servers
    with running_gateway(tmp_path, [Listed(old.port)], limits=PLENTY) as gateway:
        workers = gateway.workers()
        gateway.source.body = upstreams([Listed(new.port)])
        wait_until(lambda: _is_asked(gateway, new, by=10))

        assert workers == gateway.workers()


def _is_asked(gateway: Gateway, server: Server, *, by: int) -> bool:
    before = server.n_requests
    for _ in range(by):
        gateway.ask("/api/generate", ASK)
    return server.n_requests == before + by


def test_a_restarted_gateway_knows_its_instances_without_a_source(
    servers: list[Server], tmp_path: Path
) -> None:
    with Source(upstreams([Listed(servers[0].port)])) as source:
        with running_nginx(tmp_path, source, limits=PLENTY) as gateway:
            gateway.wait_ready()
            wait_until((tmp_path / "state" / "upstreams.json").exists)
        source.status = 503
        with running_nginx(tmp_path, source, limits=PLENTY) as gateway:
            gateway.wait_ready()

            assert [200] * 4 == [gateway.ask("/api/generate", ASK)[0] for _ in range(4)]


def test_a_gateway_without_a_list_says_so(tmp_path: Path) -> None:
    with running_gateway(tmp_path, [], is_ready=False) as gateway:
        wait_until(lambda: gateway.source.n_read)
        status, headers, body = gateway.ask("/api/generate", ASK)

        assert (503, "1") == (status, headers["Retry-After"])
        assert b'{"error":"the gateway has no list of instances yet"}\n' == body
        assert 503 == gateway.ask("/v1/models")[0]


def test_the_next_source_counts_where_the_first_one_fails(
    servers: list[Server], tmp_path: Path
) -> None:
    with Source(upstreams([Listed(servers[0].port)])) as source:
        sources = [f"http://127.0.0.1:{free_port()}/upstreams", source.url]
        with running_nginx(
            tmp_path, source, upstreams={"sources": sources, "refresh": "100ms"}
        ) as gateway:
            gateway.wait_ready()

            assert 200 == gateway.ask("/api/generate", ASK)[0]


def test_a_source_that_hangs_does_not_hold_up_requests(
    servers: list[Server], tmp_path: Path
) -> None:
    with running_gateway(tmp_path, [Listed(servers[0].port)], limits=PLENTY) as gateway:
        gateway.source.pause_s = 600.0
        before = gateway.source.n_read
        wait_until(lambda: gateway.source.n_read > before)

        assert [200] * 20 == [gateway.ask("/api/generate", ASK)[0] for _ in range(20)]
        gateway.source.pause_s = 0.0
