from __future__ import annotations

import asyncio
import re
import socket

import pytest

from exporter.selfmetrics import Refusal
from exporter.web import MAX_LOGGED, HostCheck
from tests.exporter.fetching import fetch
from tests.exporter.test_web import site

OURS = [
    *("", "127.0.0.1", "127.0.0.1:11440", "10.1.2.3:80", "[::1]:11440", "[::ffff:10.0.0.1]"),
    *("localhost", "LOCALHOST:80", "a.b.localhost:1", "exporter:11440", "exporter.local"),
    *("exporter.monitoring.svc.cluster.local:11440", "host.docker.internal", "localhost."),
]
STRANGERS = [
    *("evil.example", "evil.example:11440", "127.0.0.1.evil.example", "localhost.evil.example"),
    *(
        "evil.example@127.0.0.1",
        "evil.example#localhost",
        "127.0.0.1, evil.example",
        "[::1].evil.a",
    ),
]


@pytest.mark.parametrize("host", OURS)
def test_addresses_and_local_names_are_ours(host: str) -> None:
    assert HostCheck([]).is_ours(host)


@pytest.mark.parametrize("host", STRANGERS)
def test_names_that_can_be_registered_are_not(host: str) -> None:
    assert not HostCheck([]).is_ours(host)
    assert HostCheck(["*"]).is_ours(host)


def test_the_machines_own_name_and_those_of_the_setting_are_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Node7.example.org")
    check = HostCheck(["exporter.example.org"])

    for name in ("node7.example.org", "exporter.example.org"):
        assert check.is_ours(f"{name}:11440")
        assert not check.is_ours(f"other.{name}")


@pytest.mark.parametrize(
    "path", ["/", "/metrics", "/instances", "/fleet", "/fleet/map", "/nothing"]
)
async def test_a_page_is_not_told_to_a_strangers_name(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with site() as pages:
        answers = [await fetch(pages.port, path, Host="evil.example") for _ in range(2)]
        probe = await fetch(pages.port, "/-/healthy", Host="evil.example")
        refused = pages.polled.metrics.requests_refused[Refusal.HOST]._value.get()

    assert [403, 403, 200] == [answer.status for answer in (*answers, probe)]
    assert "--web.allowed-hosts" in answers[0].text
    assert "nosniff" == answers[0].headers["X-Content-Type-Options"]
    assert 2 == refused
    assert ["evil.example" in record.message for record in caplog.records] == [True]


async def test_few_of_the_refused_names_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with site() as pages:
        for n in range(MAX_LOGGED + 5):
            await fetch(pages.port, "/", Host=f"{n}.evil.example")

    assert MAX_LOGGED == len(caplog.records)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET / HTTP/1.0", "200"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example", "40[03]"),
    ],
)
async def test_no_name_is_ours_and_one_of_two_is_not_enough(head: str, status: str) -> None:
    async with site() as pages:
        reader, writer = await asyncio.open_connection("127.0.0.1", pages.port)
        writer.write(f"{head}\r\n\r\n".encode())
        assert re.match(rf"HTTP/1\.\d {status} ", (await reader.readline()).decode())
        writer.close()
