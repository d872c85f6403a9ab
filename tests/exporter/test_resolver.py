from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator

import pytest

from exporter.errors import PollError
from exporter.model import Outcome
from exporter.resolver import TTL_S, Resolver, is_address
from tests.waiting import eventually


class HeldClock:
    """A clock that stands until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s


class NameServer:
    """Stands in for the system's resolver; `gate` holds its answers back."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.address = "192.0.2.1"
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def getaddrinfo(self, host: str, port: None, *, type: int) -> list[object]:  # noqa: A002
        self.asked.append(host)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [(socket.AF_INET, type, 6, "", (self.address, 0))]


UNKNOWN_NAME = socket.gaierror(-2, "Name or service not known")


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> NameServer:
    server = NameServer()
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", server.getaddrinfo)
    return server


@pytest.fixture
async def resolver(clock: HeldClock) -> AsyncIterator[Resolver]:
    resolver = Resolver(clock)
    yield resolver
    await resolver.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%eth0", "2001:db8::5"])
def test_an_address_is_no_name(host: str) -> None:
    assert is_address(host)


@pytest.mark.parametrize("host", ["node-1", "1.2.3", "127.0.0.1.example", ""])
def test_what_is_no_address_is_a_name(host: str) -> None:
    assert not is_address(host)


async def test_one_look_up_serves_all_who_ask_while_it_is_under_way(
    resolver: Resolver, names: NameServer
) -> None:
    names.gate.clear()
    asking = [asyncio.create_task(resolver.resolve("node-1")) for _ in range(1000)]
    await eventually(lambda: names.asked)
    names.gate.set()

    assert {"192.0.2.1"} == set(await asyncio.gather(*asking))
    assert ["node-1"] == names.asked


async def test_each_host_has_its_own_look_up(resolver: Resolver, names: NameServer) -> None:
    await asyncio.gather(resolver.resolve("node-1"), resolver.resolve("node-2"))

    assert ["node-1", "node-2"] == names.asked


async def test_an_address_is_remembered_until_it_expires(
    resolver: Resolver, names: NameServer, clock: HeldClock
) -> None:
    await resolver.resolve("node-1")
    names.address = "192.0.2.2"

    clock.now_s += TTL_S - 0.1
    assert "192.0.2.1" == await resolver.resolve("node-1")

    clock.now_s += 0.1
    assert "192.0.2.2" == await resolver.resolve("node-1")
    assert 2 == len(names.asked)


async def test_a_failure_says_which_name_and_why(resolver: Resolver, names: NameServer) -> None:
    names.error = UNKNOWN_NAME

    with pytest.raises(PollError, match="cannot resolve node-1: Name or service") as caught:
        await resolver.resolve("node-1")

    assert Outcome.UNRESOLVED == caught.value.outcome


async def test_a_failure_is_not_remembered(resolver: Resolver, names: NameServer) -> None:
    names.error = UNKNOWN_NAME
    with pytest.raises(PollError):
        await resolver.resolve("node-1")
    names.error = None

    assert "192.0.2.1" == await resolver.resolve("node-1")


async def test_all_who_wait_see_the_failure(resolver: Resolver, names: NameServer) -> None:
    names.error = UNKNOWN_NAME

    failures = await asyncio.gather(
        *[resolver.resolve("node-1") for _ in range(10)], return_exceptions=True
    )

    assert {PollError} == {type(failure) for failure in failures}
    assert ["node-1"] == names.asked


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "node..1", "."])
async def test_a_name_that_cannot_be_a_name_is_a_failure_like_others(
    host: str, resolver: Resolver
) -> None:
    """The system's resolver raises a UnicodeError for it; no such name goes onto the network."""
    with pytest.raises(PollError, match="cannot resolve") as caught:
        await resolver.resolve(host)

    assert Outcome.UNRESOLVED == caught.value.outcome


async def test_one_who_gives_up_does_not_end_the_look_up_for_the_others(
    resolver: Resolver, names: NameServer
) -> None:
    names.gate.clear()
    impatient = asyncio.create_task(resolver.resolve("node-1"))
    patient = asyncio.create_task(resolver.resolve("node-1"))
    await eventually(lambda: names.asked)

    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    names.gate.set()

    assert "192.0.2.1" == await patient
    assert ["node-1"] == names.asked


async def test_a_failure_that_nobody_waited_for_is_not_remembered_either(
    resolver: Resolver, names: NameServer
) -> None:
    names.gate.clear()
    impatient = asyncio.create_task(resolver.resolve("node-1"))
    await eventually(lambda: names.asked)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    names.error = UNKNOWN_NAME
    names.gate.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    names.error = None

    assert "192.0.2.1" == await resolver.resolve("node-1")


async def test_closing_gives_up_what_is_under_way(resolver: Resolver, names: NameServer) -> None:
    names.gate.clear()
    asking = asyncio.create_task(resolver.resolve("node-1"))
    await eventually(lambda: names.asked)

    await resolver.close()
    await asyncio.gather(asking, return_exceptions=True)

    gc.collect()
    assert asking.cancelled()
    assert {asyncio.current_task()} == asyncio.all_tasks()
