"""Inventory from files, from a server, and from the replica that answers."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from exporter.errors import InputError, SourceError
from exporter.inventory import Source, SourceSettings, sources_for
from exporter.inventory.files import FileSource
from exporter.inventory.formats import Format
from exporter.inventory.http import AGE_HEADER, OLD_AFTER_S, HttpSource
from exporter.inventory.sources import SEPARATOR
from ollama_fleet.clock import Clock, SystemClock
from tests.exporter.inventory.fakes import HeldClock
from tests.exporter.inventory.serving import Answer, InventoryServer
from tests.exporter.servers import response, serving


def source(path: Path, *, max_body_bytes: int = 1_000, clock: Clock | None = None) -> FileSource:
    settings = SourceSettings(max_body_bytes=max_body_bytes)
    return FileSource(path, settings, clock or SystemClock())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.json"
    path.write_bytes(b"[1]")
    return path


def write(path: Path, body: bytes) -> None:
    path.write_bytes(body)


def write_behind_the_stamp(path: Path, body: bytes, *, over: Path | None = None) -> None:
    """Write as many bytes as there are, and give the file the time of change that it had."""
    status = (over or path).stat()
    path.write_bytes(body)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def age(path: Path, by_s: float = 60.0) -> None:
    """Make a file look as if it had been written a while ago."""
    os.utime(path, (time.time() - by_s,) * 2)


async def test_a_file_is_given_once_and_again_when_it_changes(path: Path) -> None:
    file = source(path)

    assert b"[1]" == await file.read()
    assert await file.read() is None
    write(path, b"[1, 2]")
    assert b"[1, 2]" == await file.read()


async def test_a_second_write_within_the_same_tick_is_seen(path: Path) -> None:
    """Same size, same inode, same time of change: as two quick writes in place leave it."""
    file = source(path, clock=HeldClock(path.stat().st_mtime))
    await file.read()

    write_behind_the_stamp(path, b"[2]")

    assert b"[2]" == await file.read()


async def test_a_settled_file_with_the_same_stamp_is_not_even_opened(path: Path) -> None:
    """Its content is exchanged behind the stamp, which no honest writer can do."""
    age(path)
    file = source(path)
    await file.read()
    write_behind_the_stamp(path, b"[2]")

    assert await file.read() is None


async def test_a_file_replaced_by_renaming_is_seen(path: Path) -> None:
    age(path)
    file = source(path)
    await file.read()
    new = path.with_suffix(".new")
    write_behind_the_stamp(new, b"[2]", over=path)

    os.replace(new, path)

    assert b"[2]" == await file.read()


async def test_a_deleted_file_fails_and_is_unchanged_when_it_comes_back(path: Path) -> None:
    file = source(path)
    await file.read()
    os.unlink(path)

    with pytest.raises(SourceError, match="cannot be read: No such file or directory"):
        await file.read()
    write(path, b"[1]")

    assert await file.read() is None


async def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    """A directory stands for all that cannot be read; a FIFO would keep a reader for ever."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    for path in (tmp_path, fifo):
        with pytest.raises(SourceError, match="not a regular file"):
            await source(path).read()


async def test_a_file_may_be_as_large_as_the_limit_but_no_larger(path: Path) -> None:
    assert b"[1]" == await source(path, max_body_bytes=3).read()
    with pytest.raises(SourceError, match=r"is larger than 2 bytes .*; split it"):
        await source(path, max_body_bytes=2).read()


@pytest.mark.parametrize(
    ("name", "form"),
    [("f.json", Format.JSON), ("F.JSON", Format.JSON), ("f.yml", Format.YAML), ("f", Format.YAML)],
)
def test_the_name_tells_json_from_yaml(name: str, form: Format) -> None:
    assert [form] == [source.form for source in sources_for([name])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("ftp://h/x", "must be a path or begin with http:// or https://"),
        ("file:///x", "must be a path or begin with http:// or https://"),
        ("http://ada:s3cret@h/x", "must not hold a user or password"),
        ("http:/ada:s3cret@h/", "must be a path or begin with http:// or https://"),
        ("http:/h/x?token=s3cret", "must be a path or begin with http:// or https://"),
        ("h:1/x?token=s3cret", "must be a path or begin with http:// or https://"),
        ("http://h:0/", "must name a host, and a port from 1"),
        ("http://h/#x", "must not have a fragment"),
        ("http://h/a|/b", "must have URLs, http:// or https://, on both sides of each |; within"),
        ("http://h/a||http://h/b", "on both sides of each |"),
        ("|http://h/a", "on both sides of each |"),
        ("fleet.yml|http://h/a", "on both sides of each |"),
        ("http://h/a|http://h:0/", "must name a host"),
        ("http://h/a|http://ada:s3cret@h/x", "must not hold a user or password"),
    ],
)
def test_a_source_that_cannot_be_is_refused_without_repeating_secrets(
    text: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        sources_for([text])

    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)


@asynccontextmanager
async def reading(url: str, **settings: object) -> AsyncIterator[HttpSource]:
    source = HttpSource(url, url, SourceSettings(**settings))  # type: ignore[arg-type]
    try:
        yield source
    finally:
        await source.close()


async def refusal(url: str, **settings: object) -> str:
    async with reading(url, **settings) as source:
        with pytest.raises(SourceError) as caught:
            await source.read()
        return str(caught.value)


async def test_a_body_is_given_once_and_again_when_it_changes(server: InventoryServer) -> None:
    async with reading(server.url) as source:
        assert b"[]" == await source.read()
        assert await source.read() is None
        server.answer = Answer(b"[1]")
        assert b"[1]" == await source.read()


async def test_a_known_etag_is_sent_and_a_304_is_unchanged(server: InventoryServer) -> None:
    async with reading(server.url) as source:
        server.answer = Answer(b"[1]", etag='"v1"')
        assert b"[1]" == await source.read()
        assert await source.read() is None
        server.answer = Answer(b"[2]", etag='"v2"')
        assert b"[2]" == await source.read()

    sent = [request.get("If-None-Match") for request in server.requests]
    assert [None, '"v1"', '"v1"'] == sent


@pytest.mark.parametrize("etag", ['"a\x01b"', '"a\x7fb"', '"a b"', '"é"', "x" * 2_000])
async def test_an_etag_that_cannot_be_sent_back_is_not_kept(etag: str) -> None:
    requests: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(response(b"[1]", "200 OK", f"ETag: {etag}"))
        await writer.drain()

    async with serving(handle) as port, reading(f"http://127.0.0.1:{port}/instances") as source:
        assert b"[1]" == await source.read()
        assert await source.read() is None

    assert [False, False] == [b"If-None-Match" in request for request in requests]


@pytest.mark.parametrize("status", [201, 204, 404, 500, 503])
async def test_any_other_status_is_a_failure(server: InventoryServer, status: int) -> None:
    server.answer = Answer(b"[]", status=status)

    assert f"answered {status}, expected 200" == await refusal(server.url)


async def test_a_redirect_is_not_followed(server: InventoryServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    server.answer = Answer(status=302, headers={"Location": f"{server.url}/elsewhere"})

    message = await refusal(server.url, token_file=token)

    assert "answered 302, a redirect, which is not followed" in message
    assert ["/instances"] == server.paths


async def test_a_hanging_server_fails_within_the_time_out(server: InventoryServer) -> None:
    server.answer = Answer(hangs_before_s=60.0)

    assert "sent no complete answer within 0.1 s" in await refusal(server.url, timeout_s=0.1)


async def test_a_body_may_be_as_large_as_the_limit_but_no_larger(server: InventoryServer) -> None:
    server.answer = Answer(b"x" * 300_000)

    async with reading(server.url, max_body_bytes=300_000) as source:
        assert b"x" * 300_000 == await source.read()
    refused = await refusal(server.url, max_body_bytes=299_999)
    assert "sent more than 299,999 bytes" in refused
    assert "give each as an --inventory of its own" in refused


async def test_a_body_that_breaks_off_is_a_failure(server: InventoryServer) -> None:
    server.answer = Answer(b"[1, 2, 3]", closes_after_bytes=4)

    assert "cannot be read" in await refusal(server.url)


async def test_a_compressed_body_is_not_asked_for_and_not_unpacked(server: InventoryServer) -> None:
    server.answer = Answer(gzip.compress(b"[]"), headers={"Content-Encoding": "gzip"})

    assert "compressed" in await refusal(server.url)
    assert "identity" == server.requests[0]["Accept-Encoding"]


async def test_a_server_that_is_down_is_named_with_the_systems_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]

    message = f"cannot connect to 127.0.0.1:{port}: Connection refused"
    assert message == await refusal(f"http://127.0.0.1:{port}/instances")


async def test_the_token_is_sent_and_read_anew_each_time(
    server: InventoryServer, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    async with reading(server.url, token_file=token) as source:
        await source.read()
        token.write_text("second")
        await source.read()

    sent = [request["Authorization"] for request in server.requests]
    assert ["Bearer first", "Bearer second"] == sent


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"s3cret s3cret", b"s3cret\r\nX: y", b"s3cret\xff"]
)
async def test_a_token_file_that_holds_no_token_is_refused_without_showing_it(
    server: InventoryServer, tmp_path: Path, content: bytes
) -> None:
    token = tmp_path / "token"
    token.write_bytes(content)
    async with reading(server.url, token_file=token) as source:
        with pytest.raises(InputError) as caught:
            await source.read()

    assert f"{token}: must hold one token" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert [] == server.requests


async def test_a_server_is_verified_by_default(tls_server: InventoryServer) -> None:
    assert "certificate verify failed" in await refusal(tls_server.url)


async def test_a_server_is_verified_by_the_given_certificates(
    tls_server: InventoryServer, certificate: Path
) -> None:
    async with reading(tls_server.url, ca_file=certificate) as source:
        assert b"[]" == await source.read()


async def test_a_certificate_file_that_is_none_is_for_a_person_to_mend(
    tls_server: InventoryServer, tmp_path: Path
) -> None:
    nonsense = tmp_path / "ca.pem"
    nonsense.write_text("nonsense")

    for path in (nonsense, tmp_path / "missing.pem"):
        async with reading(tls_server.url, ca_file=path) as source:
            with pytest.raises(InputError, match="cannot be used as certificates"):
                await source.read()


TIMEOUT_S = 300.0
HASTY_S = 3.0
"""Where a server hangs, which then takes a third of it."""
HANGS = Answer(hangs_before_s=60.0)
Servers = tuple[InventoryServer, InventoryServer, InventoryServer]


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    three = InventoryServer(), InventoryServer(), InventoryServer()
    async with AsyncExitStack() as stack:
        for one in three:
            await one.start()
            stack.push_async_callback(one.stop)
        yield three


@pytest.fixture
async def servers_source(servers: Servers) -> AsyncIterator[Source]:
    made = source_of(servers)
    yield made
    await made.close()


@pytest.fixture
async def hasty_source(servers: Servers) -> AsyncIterator[Source]:
    made = source_of(servers, timeout_s=HASTY_S)
    yield made
    await made.close()


def source_of(servers: Servers, **settings: object) -> Source:
    text = SEPARATOR.join(server.url for server in servers)
    given: dict[str, object] = {"timeout_s": TIMEOUT_S, **settings}
    (servers_source,) = sources_for([text], SourceSettings(**given))  # type: ignore[arg-type]
    return servers_source


def say(body: bytes, *servers: InventoryServer, age_s: object = 0.0) -> None:
    for server in servers:
        etag = f'"{body.decode()}"'
        server.answer = Answer(body, etag=etag, headers={AGE_HEADER: str(age_s)})


def hang(server: InventoryServer) -> None:
    server.answer = HANGS


def asked(servers: Servers) -> list[int]:
    return [len(server.requests) for server in servers]


@pytest.mark.parametrize("fault", [None, Answer(status=503), HANGS])
async def test_the_next_one_is_asked_when_one_does_not_answer(
    servers: Servers, hasty_source: Source, fault: Answer | None
) -> None:
    say(b"[1]", *servers)
    await hasty_source.read()
    say(b"[2]", *servers[1:])
    if fault is None:
        await servers[0].stop()
    else:
        servers[0].answer = fault

    assert b"[2]" == await hasty_source.read()
    # Where one hangs, a second one may be late as well.
    assert 0 == len(servers[2].requests) or fault == HANGS


async def test_after_the_last_comes_the_first(servers: Servers, servers_source: Source) -> None:
    servers[0].answer = servers[1].answer = Answer(status=500)
    assert b"[]" == await servers_source.read()
    say(b"[1]", servers[0])
    servers[2].answer = Answer(status=500)

    assert b"[1]" == await servers_source.read()
    assert [2, 1, 2] == asked(servers)


async def test_each_one_is_sent_its_own_etag(servers: Servers, servers_source: Source) -> None:
    """The second has an answer of its own for the same list."""
    servers[0].answer = Answer(b"[1]", etag='"a"')
    servers[1].answer = Answer(b"[1]", etag='"b"')
    await servers_source.read()
    servers[0].answer = Answer(status=500)
    for _ in range(2):
        assert await servers_source.read() is None
    servers[0].answer, servers[1].answer = Answer(b"[1]", etag='"a"'), Answer(status=500)
    servers[2].answer = Answer(status=500)

    assert await servers_source.read() is None

    assert '"a"' == servers[0].requests[-1]["If-None-Match"]
    sent = [request.get("If-None-Match") for request in servers[1].requests]
    assert [None, '"b"', '"b"'] == sent


async def test_a_list_that_one_gave_before_another_gave_a_newer_one_is_given_again(
    servers: Servers, servers_source: Source
) -> None:
    """For the first server nothing has changed since it was asked; for us it has, twice."""
    say(b"[1]", servers[0])
    assert b"[1]" == await servers_source.read()
    good, servers[0].answer = servers[0].answer, Answer(status=500)
    say(b"[2]", servers[1])
    assert b"[2]" == await servers_source.read()
    servers[0].answer, servers[1].answer = good, Answer(status=500)
    servers[2].answer = Answer(status=500)

    assert b"[1]" == await servers_source.read()


async def test_a_fresh_list_goes_before_an_old_one(
    servers: Servers, servers_source: Source
) -> None:
    """The first provisioner has lost its store, and goes on with what it knew."""
    say(b"[1]", *servers)
    await servers_source.read()
    say(b"[1]", servers[0], age_s=OLD_AFTER_S + 0.1)
    say(b"[2]", servers[1], servers[2])

    assert b"[2]" == await servers_source.read()
    assert await servers_source.read() is None
    assert [2, 2, 0] == asked(servers)


async def test_of_old_lists_another_is_taken_only_if_it_is_fresher_by_far(
    servers: Servers, servers_source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    """The store is away from all of them: their ages grow alike, and nobody takes over."""
    say(b"[1]", servers[0], age_s=100.0)
    say(b"[2]", servers[1], servers[2], age_s=100.0 - OLD_AFTER_S)
    assert b"[1]" == await servers_source.read()
    assert await servers_source.read() is None
    assert [] == caplog.messages

    say(b"[2]", servers[2], age_s=100.0 - OLD_AFTER_S - 0.1)
    assert b"[2]" == await servers_source.read()
    assert f"to={servers[2].url}: " in caplog.text


async def test_all_of_them_together_take_no_longer_than_one(servers: Servers) -> None:
    for server in servers:
        hang(server)
    made = source_of(servers, timeout_s=0.3)

    with pytest.raises(SourceError) as caught:
        await made.read()
    await made.close()

    each = "sent no complete answer within 0.1 s (the timeout)"
    seen = "; ".join(f"{server.url}: {each}" for server in servers)
    assert f"none of its servers can be read: {seen}" == str(caught.value)


async def test_the_log_says_who_took_over_and_why(
    servers: Servers, servers_source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "exporter.inventory")
    say(b"[1]", *servers)
    await servers_source.read()
    servers[0].answer = Answer(status=503)
    for _ in range(3):
        await servers_source.read()
    say(b"[1]", servers[1], age_s=61.0)
    await servers_source.read()

    first, second, third = (server.url for server in servers)
    assert [
        f"inventory server changed from={first} to={second}: answered 503, expected 200",
        f"inventory server changed from={second} to={third}: its list is 61 s old",
    ] == caplog.messages
    assert repr(servers_source).endswith(f"now {third}>")
