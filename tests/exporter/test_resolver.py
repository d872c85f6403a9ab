from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from exporter.errors import PollError
from exporter.model import Outcome
from exporter.resolver import (
    FORGET_S,
    MAX_RETRY_S,
    MAX_RETRY_THREADS,
    MAX_THREADS,
    RETRY_S,
    TTL_S,
    Resolver,
    retry_s,
)
from tests.exporter.inventory.fakes import HeldClock
from tests.waiting import eventually


class NameServer:
    """Stands in for the system's resolver; `gate` holds its answers back."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.addresses = ["192.0.2.1"]
        self.error: Exception | None = None
        self.held: frozenset[str] | None = None
        """Those whose answers the gate holds back; None for all."""
        self.gate = threading.Event()
        self.gate.set()

    def getaddrinfo(self, host: str, port: None, *, type: int) -> list[object]:  # noqa: A002
        self.asked.append(host)
        if self.held is None or host in self.held:
            self.gate.wait()
        if self.error is not None:
            raise self.error.__class__(*self.error.args)  # one of its own, as a resolver does
        return [(_family(address), type, 6, "", (address, 0)) for address in self.addresses]


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def soon_s(within_s: float = 100.0) -> float:
    """Return a deadline that only a test which fails reaches."""
    return asyncio.get_running_loop().time() + within_s


def resolver_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "resolver"]


UNKNOWN_NAME = socket.gaierror(-2, "Name or service not known")


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock(1000.0)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
    yield server
    server.gate.set()


@pytest.fixture
async def resolver(clock: HeldClock) -> AsyncIterator[Resolver]:
    resolver = Resolver(clock)
    yield resolver
    await resolver.close()


async def test_one_look_up_serves_all_who_ask_while_it_is_under_way(
    resolver: Resolver, names: NameServer
) -> None:
    names.gate.clear()
    asking = [asyncio.create_task(resolver.resolve("node-1", soon_s())) for _ in range(1000)]
    await eventually(lambda: names.asked)
    names.gate.set()

    assert {("192.0.2.1",)} == set(await asyncio.gather(*asking))
    assert ["node-1"] == names.asked


async def test_an_address_is_remembered_until_it_expires(
    resolver: Resolver, names: NameServer, clock: HeldClock
) -> None:
    await resolver.resolve("node-1", soon_s())

    clock.now_s += TTL_S - 0.1
    await resolver.resolve("node-1", soon_s())
    assert 1 == len(names.asked)

    clock.now_s += 0.1
    await resolver.resolve("node-1", soon_s())
    await eventually(lambda: 2 == len(names.asked))


async def test_expired_addresses_are_used_until_the_new_ones_are_there(
    resolver: Resolver, names: NameServer, clock: HeldClock
) -> None:
    await resolver.resolve("node-1", soon_s())
    names.addresses = ["192.0.2.2"]
    names.gate.clear()
    clock.now_s += TTL_S

    for _ in range(10):
        assert ("192.0.2.1",) == await resolver.resolve("node-1", soon_s())
    await eventually(lambda: 2 == len(names.asked))
    names.gate.set()

    async def is_new() -> bool:
        return ("192.0.2.2",) == await resolver.resolve("node-1", soon_s())

    await eventually(is_new)
    assert 2 == len(names.asked)


async def test_a_name_server_that_fails_takes_no_known_address_away(
    resolver: Resolver, names: NameServer, clock: HeldClock
) -> None:
    await resolver.resolve("node-1", soon_s())
    names.error = UNKNOWN_NAME
    clock.now_s += TTL_S

    async def asked_twice_more() -> bool:
        clock.now_s += TTL_S
        assert ("192.0.2.1",) == await resolver.resolve("node-1", soon_s())
        return len(names.asked) >= 3

    await eventually(asked_twice_more)


async def test_a_host_that_nobody_asked_for_lately_is_forgotten(
    resolver: Resolver, names: NameServer, clock: HeldClock
) -> None:
    await resolver.resolve("node-1", soon_s())
    await resolver.resolve("node-2", soon_s())
    clock.now_s += FORGET_S
    await resolver.resolve("node-2", soon_s())
    await eventually(lambda: 3 == len(names.asked))
    clock.now_s += 0.1
    names.addresses = ["192.0.2.2"]

    assert ("192.0.2.2",) == await resolver.resolve("node-1", soon_s())
    assert ("192.0.2.1",) == await resolver.resolve("node-2", soon_s())


async def test_a_host_has_all_its_addresses_ipv4_first_and_each_once(
    resolver: Resolver, names: NameServer
) -> None:
    names.addresses = ["::1", "192.0.2.9", "::1", "2001:db8::5", "192.0.2.1", "192.0.2.9"]

    found = await resolver.resolve("node-1", soon_s())

    assert ("192.0.2.9", "192.0.2.1", "::1", "2001:db8::5") == found


async def test_a_resolver_that_hangs_is_reported_as_such_at_the_deadline(
    resolver: Resolver, names: NameServer
) -> None:
    names.gate.clear()

    with pytest.raises(PollError, match=r"cannot resolve node-1: .* no answer in time") as caught:
        await resolver.resolve("node-1", soon_s(0.05))

    assert Outcome.UNRESOLVED == caught.value.outcome


async def test_one_deadline_does_not_end_the_look_up_for_the_others(
    resolver: Resolver, names: NameServer
) -> None:
    names.gate.clear()
    patient = asyncio.create_task(resolver.resolve("node-1", soon_s()))
    with pytest.raises(PollError):
        await resolver.resolve("node-1", soon_s(0.05))
    names.gate.set()

    assert ("192.0.2.1",) == await patient
    assert ["node-1"] == names.asked


async def test_many_names_are_looked_up_at_once_and_the_others_wait_in_order(
    resolver: Resolver, names: NameServer
) -> None:
    names.gate.clear()
    others = set(resolver_threads())  # of a test before, which end soon
    hosts = [f"node-{i}" for i in range(MAX_THREADS + 9)]
    asking = [asyncio.create_task(resolver.resolve(host, soon_s())) for host in hosts]
    await eventually(lambda: len(names.asked) >= MAX_THREADS)

    assert set(hosts[:MAX_THREADS]) == set(names.asked)
    assert f"{MAX_THREADS} look-ups under way, 9 waiting" in repr(resolver)
    assert MAX_THREADS == len(set(resolver_threads()) - others)
    names.gate.set()
    await asyncio.gather(*asking)
    assert set(hosts) == set(names.asked)


async def test_a_machine_without_a_thread_to_spare_is_a_failure_like_others(
    resolver: Resolver,
    names: NameServer,
    clock: HeldClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(PollError, match="cannot resolve node-1: can't start new thread"):
            await resolver.resolve("node-1", soon_s())

    clock.now_s += TTL_S

    async def is_found() -> bool:
        return not await fails(resolver, "node-1")

    await eventually(is_found)


HANGS = """
import asyncio, socket, time
import uvloop
from ollama_fleet.clock import SystemClock
from exporter.errors import PollError
from exporter.resolver import Resolver

socket.getaddrinfo = lambda *_, **__: time.sleep(600)

async def main():
    resolver = Resolver(SystemClock())
    try:
        await resolver.resolve("node-1", asyncio.get_running_loop().time() + 0.1)
    except PollError as error:
        print(error.outcome)
    await resolver.close()

{run}(main())
"""


@pytest.mark.parametrize("run", ["uvloop.run", "asyncio.run"])
def test_a_process_ends_without_a_look_up_that_hangs(run: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HANGS.format(run=run)],
        timeout=100,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "unresolved\n", "") == (ended.returncode, ended.stdout, ended.stderr)


async def until_idle(resolver: Resolver, words: str) -> None:
    """Return once its repr says so, and what the last look-up found was taken."""
    await eventually(lambda: words in repr(resolver))
    await asyncio.sleep(0)


async def fails(resolver: Resolver, host: str, within_s: float = 100.0) -> bool:
    try:
        await resolver.resolve(host, soon_s(within_s))
    except PollError:
        return True
    return False


async def test_a_failure_is_remembered_and_looked_up_again_ever_less_often(
    resolver: Resolver, names: NameServer, clock: HeldClock
) -> None:
    names.error = UNKNOWN_NAME
    for n in range(1, 7):
        assert await fails(resolver, "node-1")
        await until_idle(resolver, "retries: 0 look-ups under way, 0 waiting")
        assert n == len(names.asked)
        clock.now_s += retry_s("node-1", n) - 0.1
        assert await fails(resolver, "node-1")
        assert "retries: 0 look-ups under way, 0 waiting" in repr(resolver)
        clock.now_s += 0.1


def test_a_host_that_fails_is_looked_up_within_a_minute_and_not_with_all_others() -> None:
    waits_s = [[retry_s(f"node-{i}", n) for i in range(100)] for n in (1, 2, 4, 1000)]

    bounds_s = [(RETRY_S, 7.5), (10.0, 15.0), (MAX_RETRY_S, 60.0), (MAX_RETRY_S, 60.0)]
    for some_s, (least_s, most_s) in zip(waits_s, bounds_s, strict=True):
        assert least_s <= min(some_s) <= max(some_s) <= most_s
        assert max(some_s) - min(some_s) > 0.3 * least_s


async def test_a_host_that_comes_back_is_found_and_its_failures_are_forgotten(
    resolver: Resolver, names: NameServer, clock: HeldClock
) -> None:
    names.error = UNKNOWN_NAME
    assert await fails(resolver, "node-1")
    names.error = None
    clock.now_s += retry_s("node-1", 1)

    async def is_back() -> bool:
        return not await fails(resolver, "node-1")

    await eventually(is_back)
    names.error = UNKNOWN_NAME
    for n, wait_s in ((3, TTL_S), (4, retry_s("node-1", 1))):
        await until_idle(resolver, "known, 0 look-ups under way, 0 waiting")
        clock.now_s += wait_s
        assert await is_back()
        await eventually(lambda n=n: n == len(names.asked))  # type: ignore[misc]


async def test_hosts_that_failed_last_and_hang_hold_up_no_other(
    resolver: Resolver, names: NameServer, clock: HeldClock
) -> None:
    """Neither one that is new nor one whose address has changed."""
    await resolver.resolve("good", soon_s())
    names.error = UNKNOWN_NAME
    dead = [f"dead-{i}" for i in range(MAX_THREADS + MAX_RETRY_THREADS)]
    for host in dead:
        assert await fails(resolver, host)
    names.error = None
    names.addresses = ["192.0.2.2"]
    names.held = frozenset(dead)
    names.gate.clear()
    clock.now_s += TTL_S

    assert {True} == {await fails(resolver, host) for host in dead}

    async def is_new() -> bool:
        return ("192.0.2.2",) == await resolver.resolve("good", soon_s())

    await eventually(is_new)
    assert ("192.0.2.2",) == await resolver.resolve("fresh", soon_s())
    await eventually(lambda: f"retries: {MAX_RETRY_THREADS} look-ups under" in repr(resolver))


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "node..1", "."])
async def test_a_name_that_cannot_be_a_name_is_a_failure_like_others(
    host: str, resolver: Resolver
) -> None:
    """The system's resolver raises a UnicodeError for it; no such name goes onto the network."""
    with pytest.raises(PollError, match="cannot resolve") as caught:
        await resolver.resolve(host, soon_s())

    assert Outcome.UNRESOLVED == caught.value.outcome


async def test_closing_gives_up_what_is_under_way(resolver: Resolver, names: NameServer) -> None:
    names.gate.clear()
    asking = asyncio.create_task(resolver.resolve("node-1", soon_s()))
    await eventually(lambda: names.asked)

    await resolver.close()
    await asyncio.gather(asking, return_exceptions=True)

    gc.collect()
    assert asking.cancelled()
    assert {asyncio.current_task()} == asyncio.all_tasks()
