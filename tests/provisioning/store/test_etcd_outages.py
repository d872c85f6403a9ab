"""Members and leaders that die or hang, and what the others see of it."""

from __future__ import annotations

import asyncio
import signal
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ollama_fleet.clock import SystemClock
from provisioning.errors import FencedError, StoreUnavailableError
from provisioning.model import Instance
from provisioning.store.base import NEW, ChangeRefusal, Put, Store, Term
from provisioning.store.etcd import store
from provisioning.store.etcd.access import Access
from provisioning.store.etcd.client import Client
from provisioning.store.etcd.leadership import EtcdLeadership
from provisioning.store.etcd.messages_pb2 import WatchResponse
from provisioning.store.etcd.store import EtcdStore
from tests.etcd import Cluster, Member, etcd_cluster, gateway
from tests.provisioning.store.examples import (
    PATIENCE_S,
    Open,
    Opened,
    applied,
    content,
    entered,
    instance,
    leading,
    put,
    watched,
)
from tests.provisioning.store.leaders import leader
from tests.provisioning.store.patience import HurriedClock, patient_client
from tests.waiting import eventually

T = TypeVar("T")
LEASE_S = 10
"""Where it is to end; it does not end earlier on a machine that stands still for 5 seconds."""
LONG_LEASE_S = int(2 * PATIENCE_S)
DEADLINE_S = 3.0
SILENCE_S = 2.0
PATIENT_SILENCE_S = 8.0
"""So long a member that runs is not silent, however busy the machine is."""


@pytest.fixture(scope="module")
def shared_cluster(
    etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    with etcd_cluster(etcd_binary, tmp_path_factory.mktemp("three"), n_members=3) as cluster:
        yield cluster


@pytest.fixture
def three(shared_cluster: Cluster) -> Iterator[Cluster]:
    yield shared_cluster
    shared_cluster.heal()


@pytest.fixture
async def open_one(three: Cluster, fleet: str) -> AsyncIterator[Open]:
    async with opening(three, fleet) as open_one:
        yield open_one


@asynccontextmanager
async def opening(
    cluster: Cluster,
    fleet: str,
    *,
    deadline_s: float = DEADLINE_S,
    silence_s: float = SILENCE_S,
    lease_s: int = LONG_LEASE_S,
) -> AsyncIterator[Open]:
    """Give what opens stores and leaderships; each asks the first member first."""
    async with AsyncExitStack() as stack:

        def open_one(holder: str) -> Opened:
            client = Client(Access(cluster.addresses, deadline_s=deadline_s))
            stack.push_async_callback(client.close)
            clock = SystemClock()
            return EtcdStore(client, fleet, clock=clock, silence_s=silence_s), EtcdLeadership(
                client, fleet, holder=holder, clock=clock, lease_s=lease_s
            )

        yield open_one


async def patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what an attempt gives; repeat it while the store cannot be reached in time."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(StoreUnavailableError):
                return await attempt()


async def put_patiently(store: Store, term: Term, made: Instance) -> None:
    """Store an instance; an attempt may have stored it although its answer was lost."""
    (done,) = await patiently(lambda: store.commit([Put(made, NEW)], term=term))
    assert done.refusal in (None, ChangeRefusal.CONFLICT)


@pytest.mark.parametrize("harm", [Member.kill, Member.pause])
async def test_one_member_less_is_no_loss(
    three: Cluster, open_one: Open, harm: Callable[[Member], None]
) -> None:
    """The member in use dies or hangs: reads and writes go on at others."""
    async with leading(open_one("alice")) as (store, term):
        made = await put(store, term, instance("a", port=1))

        harm(three.members[0])

        await patiently(store.load)
        await put_patiently(store, term, instance("b", port=2))
        view = await patiently(store.load)
        assert {"a", "b"} == set(view.stored)
        assert made[0] == view.stored["a"]


@pytest.mark.parametrize("harm", [Member.kill, Member.pause])
async def test_a_watch_goes_on_at_another_member(
    three: Cluster, open_one: Open, harm: Callable[[Member], None]
) -> None:
    store, _ = open_one("carol")
    writer = open_one("alice")
    start = await store.load()
    watch = asyncio.ensure_future(watched(store, start.revision, lambda seen: len(seen) == 2))
    async with leading(writer) as (_, term):
        await put_patiently(writer[0], term, instance("a", port=1))
        await patiently(store.load)

        harm(three.members[0])

        with pytest.raises(StoreUnavailableError, match="cannot watch at etcd"):
            await watch
        await put_patiently(writer[0], term, instance("b", port=2))
        last = await patiently(store.load)
        updates = await patiently(
            lambda: watched(
                store, start.revision, lambda seen: applied(start, seen).revision == last.revision
            )
        )
        assert last == applied(start, updates)


async def test_a_cluster_that_is_gone_stops_changes_and_comes_back_whole(
    three: Cluster, open_one: Open, fleet: str
) -> None:
    async with opening(three, fleet, lease_s=LEASE_S) as briefly, AsyncExitStack() as stack:
        opened = briefly("alice")
        current = await entered(stack, opened[1])
        await put_patiently(opened[0], current.term, instance("a", port=1))
        three.kill()

        with pytest.raises(StoreUnavailableError):
            await opened[0].load()
        with pytest.raises(StoreUnavailableError, match="cannot write at etcd"):
            await opened[0].commit([Put(instance("b", port=2), NEW)], term=current.term)
        assert await opened[1].leader() is None
        await asyncio.wait_for(current.lost(), PATIENCE_S)

    await asyncio.to_thread(three.start)
    async with leading(open_one("bob")) as (store, term):
        assert {"a"} == set((await patiently(store.load)).stored)
        await put_patiently(store, term, instance("b", port=2))
    late = [Put(instance("c", port=3), NEW)]
    with pytest.raises(FencedError):
        await patiently(lambda: store.commit(late, term=current.term))


async def test_a_cluster_without_most_of_its_members_accepts_nothing(
    three: Cluster, fleet: str
) -> None:
    """Nothing is to go well once somebody leads, so that nobody needs to be patient."""
    async with (
        opening(three, fleet, deadline_s=0.5) as open_one,
        leading(open_one("alice")) as (store, term),
    ):
        for member in three.members[1:]:
            member.kill()

        with pytest.raises(StoreUnavailableError, match="most members reach each other"):
            await store.commit([Put(instance(), NEW)], term=term)
        with pytest.raises(StoreUnavailableError):
            await store.load()
        with pytest.raises(StoreUnavailableError):
            await anext(store.watch(1))


async def test_a_watch_at_a_member_that_lost_the_others_ends(
    three: Cluster, open_one: Open
) -> None:
    """It stays connected, and would never say anything again."""
    store, _ = open_one("alice")
    start = await store.load()
    watching = asyncio.ensure_future(anext(aiter(store.watch(start.revision))))

    for member in three.members[1:]:
        member.kill()

    with pytest.raises(StoreUnavailableError):
        await asyncio.wait_for(watching, PATIENCE_S)


async def test_a_standby_leads_soon_after_the_leader_was_killed(
    three: Cluster, open_one: Open, fleet: str
) -> None:
    """When its lease has ended; every write that was acknowledged is there."""
    standby = open_one("bob")
    async with leader(three.url, fleet, "alice", lease_s=LEASE_S) as alice:
        await alice.says("leads")
        async with AsyncExitStack() as stack:
            waiting = asyncio.ensure_future(entered(stack, standby[1]))
            for _ in range(20):
                await alice.says("wrote")
            assert not waiting.done()

            alice.process.kill()

            current = await waiting
            stored = (await patiently(standby[0].load)).stored
            versions = {name: one.version for name, one in stored.items()}
            acknowledged = await alice.ended()
            assert acknowledged.items() <= versions.items()
            assert 20 <= len(acknowledged)
            await put_patiently(standby[0], current.term, instance("bob-1", port=9_999))


async def test_a_leader_that_hung_longer_than_its_lease_writes_nothing_more(
    three: Cluster, open_one: Open, fleet: str
) -> None:
    standby = open_one("bob")
    async with leader(three.url, fleet, "alice", lease_s=LEASE_S) as alice:
        await alice.says("wrote")
        alice.process.send_signal(signal.SIGSTOP)
        async with leading(standby) as (store, term):
            await put_patiently(store, term, instance("bob-1", port=9_999))
            before = content(await patiently(store.load))

            alice.process.send_signal(signal.SIGCONT)

            await alice.says("lost")
            assert before == content(await patiently(store.load))


async def test_the_lease_outlives_the_member_that_keeps_it(three: Cluster, fleet: str) -> None:
    """It hangs, and the lease is kept through another one."""
    cluster, clock = with_a_follower_first(three), SystemClock()
    client = Client(Access(cluster.addresses))
    leadership = EtcdLeadership(client, fleet, holder="alice", clock=clock, lease_s=2 * LEASE_S)
    async with leadership.lead() as current:
        cluster.members[0].pause()
        paused_s = clock.monotonic_s()
        losing = asyncio.ensure_future(current.lost())

        # It was asked for after the member hung, and granted.
        await eventually(lambda: current.until_s > paused_s + 2 * LEASE_S)

        await eventually(leadership.leader)
        assert not losing.done()
        assert "alice" == await leadership.leader()
    await losing
    await client.close()


def with_a_follower_first(cluster: Cluster) -> Cluster:
    """Return the members so that the loss of the first one makes no election."""
    status = {one.name: gateway(one.address, "maintenance/status") for one in cluster.members}
    follows = {name: one["leader"] != one["header"]["member_id"] for name, one in status.items()}
    return Cluster(tuple(sorted(cluster.members, key=lambda one: not follows[one.name])))


async def is_watched(member: Member) -> bool:
    """Return whether just one watch is open at this member."""
    url = member.health_url.replace("/health", "/metrics")

    def metrics() -> str:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return str(answer.read().decode())

    return "\netcd_debugging_mvcc_watcher_total 1\n" in await asyncio.to_thread(metrics)


async def test_a_lease_that_somebody_ended_is_noticed(etcd: Cluster, fleet: str) -> None:
    """By the answer to the next renewal, not only by the refused write, nor by its own end."""
    client = patient_client(etcd)
    leadership = EtcdLeadership(
        client, fleet, holder="alice", clock=HurriedClock(), lease_s=LONG_LEASE_S
    )
    async with leadership.lead() as current:
        (address,) = etcd.addresses
        for lease in gateway(address, "lease/leases")["leases"]:
            gateway(address, "lease/revoke", ID=lease["ID"])

        await asyncio.wait_for(current.lost(), PATIENCE_S)
    await client.close()


async def test_a_watch_that_has_nothing_to_tell_stays_open(
    etcd: Cluster, fleet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for a sign of life, an idle member gives one."""
    responses = responses_to_watches(monkeypatch)
    async with opening(etcd, fleet, silence_s=PATIENT_SILENCE_S) as open_one:
        store, _ = open_one("carol")
        start = await store.load()
        watch = asyncio.ensure_future(watched(store, start.revision, bool))

        await eventually(lambda: watch.done() or any(map(is_sign_of_life, responses)))

        assert not watch.done()
        async with leading(open_one("alice")) as (writer, term):
            (made,) = await put(writer, term, instance())
        assert (made,) == (await watch)[0].stored


def responses_to_watches(monkeypatch: pytest.MonkeyPatch) -> list[WatchResponse]:
    """Return what members say to all watches from now on; it grows."""
    seen: list[WatchResponse] = []
    receive = store._response

    async def noted(*args: Any) -> WatchResponse:
        seen.append(await receive(*args))
        return seen[-1]

    monkeypatch.setattr(store, "_response", noted)
    return seen


def is_sign_of_life(response: WatchResponse) -> bool:
    """Return whether it tells neither of a change nor that a watch begins or ends."""
    return not (response.created or response.canceled or response.events)


async def test_a_standby_is_not_deceived_by_a_member_that_hangs_with_the_leader(
    three: Cluster, fleet: str
) -> None:
    """The standby watches there whether the leader's key is deleted."""
    cluster = with_a_follower_first(three)
    async with (
        opening(cluster, fleet, lease_s=LEASE_S) as open_one,
        leader(cluster.url, fleet, "alice", lease_s=LEASE_S) as alice,
        AsyncExitStack() as stack,
    ):
        await alice.says("leads")
        waiting = asyncio.ensure_future(entered(stack, open_one("bob")[1]))
        await eventually(lambda: is_watched(cluster.members[0]))
        await alice.says("wrote")
        cluster.members[0].pause()
        alice.process.send_signal(signal.SIGSTOP)

        current = await waiting

        assert "bob" == current.term.holder
