from __future__ import annotations

import asyncio
import gc
import re
import socket
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import ClassVar

import aiohttp
import pytest
from aiohttp import web

import exporter.web
from exporter import responses
from exporter.exposition import Format
from exporter.model import Target
from exporter.responses import MAX_RESPONSES, Body, ResponseSender
from exporter.selfmetrics import Refusal, SelfMetrics
from tests.exporter.fetching import fetch
from tests.exporter.pollers import target, value_of
from tests.exporter.test_web import site
from tests.exporter.ui.building import metrics
from tests.waiting import eventually

SMALL_BUFFER_BYTES = 4096
"""What a reader's kernel takes of an answer that is not read."""


class Reader:
    """A connection that asked for a page and leaves the answer where it is."""

    opened: ClassVar[list[Reader]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened.append(self)
        self._reader = reader
        self._writer = writer

    @classmethod
    async def asking(cls, port: int, path: str = "/metrics", *headers: str) -> Reader:
        """Connect and ask for a page."""
        ours = socket.socket()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        ours.setblocking(False)
        await asyncio.get_running_loop().sock_connect(ours, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=ours, limit=SMALL_BUFFER_BYTES)
        lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]
        writer.write("\r\n".join(lines).encode())
        return cls(reader, writer)

    async def status(self) -> int:
        """Return the answer's status; what follows stays unread."""
        return int((await self.head()).split()[1])

    async def head(self) -> str:
        """Return the answer's head; what follows stays unread."""
        return (await self._reader.readuntil(b"\r\n\r\n")).decode()

    async def rest(self) -> bytes:
        """Return what follows until the server closes the connection."""
        try:
            return await self._reader.read()
        except ConnectionError:
            return b""

    def break_off(self) -> None:
        """Reset the connection."""
        self._writer.transport.abort()


LARGE_LABEL = "n" * 4000


def large_fleet() -> list[Target]:
    """Return instances whose page and list are larger than what kernels take unread."""
    return [target(f"i{n}", 1, node=LARGE_LABEL) for n in range(3000)]


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@asynccontextmanager
async def sending(
    sender: ResponseSender, body: Body
) -> AsyncIterator[tuple[int, list[web.Request]]]:
    """Serve one body at /page; yield the port, and the requests as they come."""
    requests: list[web.Request] = []

    async def make() -> Body:
        return body

    async def page(request: web.Request) -> web.StreamResponse:
        requests.append(request)
        return await sender.send(request, make)

    app = web.Application()
    app.router.add_get("/page", page)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1], requests
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def nobody_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep slow readers until a test says otherwise, however slow this machine is."""
    monkeypatch.setattr(responses, "UNHURRIED_S", 1000.0)


@pytest.fixture(autouse=True)
async def no_reader_left() -> AsyncIterator[None]:
    """Close what a failed test left open: the event loop would wait for it for ever."""
    yield
    while Reader.opened:
        Reader.opened.pop().break_off()


def n_responses() -> int:
    return sum(isinstance(item, web.StreamResponse) for item in gc.get_objects())


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("path", ["/metrics", "/instances"])
async def test_readers_that_break_off_leave_no_response_behind(path: str) -> None:
    async with site(*large_fleet()) as pages:
        await pages.publish()
        for _ in range(10):
            reader = await Reader.asking(pages.port, path)
            assert 200 == await reader.status()
            reader.break_off()

        await eventually(lambda: n_responses() == 0)


@pytest.mark.parametrize("path", ["/metrics", "/instances"])
async def test_twenty_slow_readers_hold_no_twenty_pages(path: str) -> None:
    async with site(*large_fleet(), max_own_bytes=1) as pages:
        rendered_scrape = await pages.publish()
        n_page = sum(map(len, rendered_scrape.plain(Format.TEXT)))
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()

        readers = [await Reader.asking(pages.port, path) for _ in range(20)]
        for reader in readers:
            await reader.status()

        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert after - before < 1.5 * n_page
        for reader in readers:
            reader.break_off()


async def test_a_reader_that_is_too_slow_is_cut_off_and_counted() -> None:
    async with site(*large_fleet(), write_timeout_s=0.5) as pages:
        await pages.publish()
        reader = await Reader.asking(pages.port)
        length = re.search(r"Content-Length: (\d+)", await reader.head())
        assert length is not None

        aborted = pages.polled.metrics.responses_aborted
        await eventually(lambda: value_of(aborted) == 1)

        assert len(await reader.rest()) < int(length[1])
        reader.break_off()
        assert 200 == (await pages.get("/-/ready")).status


async def test_more_readers_than_can_be_borne_are_sent_away_until_others_have_gone() -> None:
    async with site(*large_fleet()) as pages:
        await pages.publish()
        readers = [await Reader.asking(pages.port) for _ in range(2 * MAX_RESPONSES)]
        statuses = [await reader.status() for reader in readers]

        assert (MAX_RESPONSES, MAX_RESPONSES) == (statuses.count(200), statuses.count(503))
        refused = await pages.get("/metrics")
        assert (503, "1000") == (refused.status, refused.headers["Retry-After"])
        assert MAX_RESPONSES + 1 == refusals(pages.polled.metrics)
        for reader in readers:
            reader.break_off()
        await eventually(partial(is_served, pages.port, "/metrics"))


async def test_slow_readers_of_the_page_keep_no_scraper_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that has read for longest makes room; nobody waits until all have run out of time."""
    async with site(*large_fleet()) as pages:
        await pages.publish()
        readers = [await Reader.asking(pages.port) for _ in range(MAX_RESPONSES)]
        assert {200} == {await reader.status() for reader in readers}
        assert not await is_served(pages.port, "/metrics")

        monkeypatch.setattr(responses, "UNHURRIED_S", 0.0)
        assert await is_served(pages.port, "/metrics")

        assert 1 == value_of(pages.polled.metrics.responses_aborted)
        assert len(await readers[0].rest()) < len((await pages.get("/metrics")).body)
        for reader in readers:
            reader.break_off()


@pytest.mark.parametrize(("spared_s", "is_spared"), [(1000.0, True), (0.0, False)])
async def test_slow_readers_on_every_connection_make_room_once_nobody_is_idle(
    spared_s: float, is_spared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter.web, "UNHURRIED_S", spared_s)
    async with site(*large_fleet(), max_connections=3) as pages:
        await pages.publish()
        oldest = await Reader.asking(pages.port, "/metrics", "Connection: close")
        length = re.search(r"200 OK.*Content-Length: (\d+)", await oldest.head(), re.DOTALL)
        assert length is not None
        readers = [oldest, await Reader.asking(pages.port)]
        assert 200 == await readers[1].status()
        for _ in range(3):  # each in place of the idle one before
            idle = await Reader.asking(pages.port, "/-/healthy")
            assert 200 == await idle.status()
        readers.append(await Reader.asking(pages.port))
        assert 200 == await readers[-1].status()

        assert is_spared != await is_let_in(pages.port)
        assert is_spared == (len(await oldest.rest()) == int(length[1]))
        for reader in readers:
            reader.break_off()


async def is_let_in(port: int) -> bool:
    try:
        return await is_served(port, "/-/healthy")
    except aiohttp.ClientError:
        return False


async def test_bodies_that_readers_do_not_share_are_bounded_in_bytes_but_one_is_always_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = metrics()
    sender = ResponseSender(own, timeout_s=100.0, max_own_bytes=1000)
    body = Body({}, [b"x" * 30_000_000], own_bytes=30_000_000)
    async with sending(sender, body) as (port, _):
        first = await Reader.asking(port, "/page")
        assert 200 == await first.status()
        second = await Reader.asking(port, "/page")
        assert 503 == await second.status()
        assert 1 == refusals(own)

        monkeypatch.setattr(responses, "UNHURRIED_S", 0.0)
        assert await is_served(port, "/page")
        assert len(await first.rest()) < 30_000_000
        for reader in (first, second):
            reader.break_off()


async def test_a_head_request_gets_the_length_and_no_body() -> None:
    async with site(target("a", 1)) as pages:
        await pages.publish()
        answer = await fetch(pages.port, "/metrics", method="HEAD")

    assert (200, b"") == (answer.status, answer.body)
    assert int(answer.headers["Content-Length"]) > 1000


def refusals(of: SelfMetrics) -> float:
    count: float = value_of(of.requests_refused[Refusal.RESPONSES])
    return count


async def is_served(port: int, path: str) -> bool:
    return 200 == (await fetch(port, path)).status
