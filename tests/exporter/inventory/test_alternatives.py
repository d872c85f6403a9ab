"""One inventory from several servers: the one that answers, while it answers and is not old."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from exporter.errors import SourceError
from exporter.inventory import Source, SourceSettings, sources_for
from exporter.inventory.sources import AGE_HEADER, OLD_AFTER_S, SEPARATOR
from tests.exporter.inventory.serving import Answer, InventoryServer

TIMEOUT_S = 30.0
HASTY_S = 3.0
"""Where a server hangs, which then takes a third of it."""
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
async def source(servers: Servers) -> AsyncIterator[Source]:
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
    (source,) = sources_for([text], SourceSettings(**given))  # type: ignore[arg-type]
    return source


def say(body: bytes, *servers: InventoryServer, age_s: object = 0.0) -> None:
    for server in servers:
        etag = f'"{body.decode()}"'
        server.answer = Answer(body, etag=etag, headers={AGE_HEADER: str(age_s)})


def hang(server: InventoryServer) -> None:
    server.answer = Answer(hangs_before_s=60.0)


def asked(servers: Servers) -> list[int]:
    return [len(server.requests) for server in servers]


@pytest.mark.parametrize("fault", [None, Answer(status=503), Answer(hangs_before_s=60.0)])
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
    assert 0 == len(servers[2].requests)


async def test_after_the_last_comes_the_first(servers: Servers, source: Source) -> None:
    servers[0].answer = servers[1].answer = Answer(status=500)
    assert b"[]" == await source.read()
    say(b"[1]", servers[0])
    servers[2].answer = Answer(status=500)

    assert b"[1]" == await source.read()
    assert [2, 1, 2] == asked(servers)


async def test_each_one_is_sent_its_own_etag(servers: Servers, source: Source) -> None:
    """The second has an answer of its own for the same list."""
    servers[0].answer = Answer(b"[1]", etag='"a"')
    servers[1].answer = Answer(b"[1]", etag='"b"')
    await source.read()
    servers[0].answer = Answer(status=500)
    for _ in range(2):
        assert await source.read() is None
    servers[0].answer, servers[1].answer = Answer(b"[1]", etag='"a"'), Answer(status=500)
    servers[2].answer = Answer(status=500)

    assert await source.read() is None

    assert '"a"' == servers[0].requests[-1]["If-None-Match"]
    sent = [request.get("If-None-Match") for request in servers[1].requests]
    assert [None, '"b"', '"b"'] == sent


async def test_a_list_that_one_gave_before_another_gave_a_newer_one_is_given_again(
    servers: Servers, source: Source
) -> None:
    """For the first server nothing has changed since it was asked; for us it has, twice."""
    say(b"[1]", servers[0])
    assert b"[1]" == await source.read()
    good, servers[0].answer = servers[0].answer, Answer(status=500)
    say(b"[2]", servers[1])
    assert b"[2]" == await source.read()
    servers[0].answer, servers[1].answer = good, Answer(status=500)
    servers[2].answer = Answer(status=500)

    assert b"[1]" == await source.read()


async def test_a_fresh_list_goes_before_an_old_one(servers: Servers, source: Source) -> None:
    """The first provisioner has lost its store, and goes on with what it knew."""
    say(b"[1]", *servers)
    await source.read()
    say(b"[1]", servers[0], age_s=OLD_AFTER_S + 0.1)
    say(b"[2]", servers[1], servers[2])

    assert b"[2]" == await source.read()
    assert await source.read() is None
    assert [2, 2, 0] == asked(servers)


async def test_of_old_lists_another_is_taken_only_if_it_is_fresher_by_far(
    servers: Servers, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    """The store is away from all of them: their ages grow alike, and nobody takes over."""
    say(b"[1]", servers[0], age_s=100.0)
    say(b"[2]", servers[1], servers[2], age_s=100.0 - OLD_AFTER_S)
    assert b"[1]" == await source.read()
    assert await source.read() is None
    assert [] == caplog.messages

    say(b"[2]", servers[2], age_s=100.0 - OLD_AFTER_S - 0.1)
    assert b"[2]" == await source.read()
    assert f"to={servers[2].url}: " in caplog.text


async def test_all_of_them_together_take_no_longer_than_one(servers: Servers) -> None:
    for server in servers:
        hang(server)
    made = source_of(servers, timeout_s=0.3)

    with pytest.raises(SourceError) as caught:
        await made.read()
    await made.close()

    each = "gave no whole answer within 0.1 s (its time-out)"
    seen = "; ".join(f"{server.url}: {each}" for server in servers)
    assert f"none of its servers can be read: {seen}" == str(caught.value)


async def test_the_log_says_who_took_over_and_why(
    servers: Servers, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "exporter.inventory")
    say(b"[1]", *servers)
    await source.read()
    servers[0].answer = Answer(status=503)
    for _ in range(3):
        await source.read()
    say(b"[1]", servers[1], age_s=61.0)
    await source.read()

    first, second, third = (server.url for server in servers)
    assert [
        f"inventory server changed from={first} to={second}: answered 503, expected 200",
        f"inventory server changed from={second} to={third}: its list is 61 s old",
    ] == caplog.messages
    assert repr(source).endswith(f"now {third}>")
