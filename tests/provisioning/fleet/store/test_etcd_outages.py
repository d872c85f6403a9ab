"""Members and leaders that die or hang, and what the others see of it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from provisioning.fleet.clock import SystemClock
from provisioning.fleet.errors import FencedError, StoreUnavailableError
from provisioning.fleet.store.base import NEW, Put, Store, View
from provisioning.fleet.store.etcd.access import Access
from provisioning.fleet.store.etcd.client import Client
from provisioning.fleet.store.etcd.leadership import EtcdLeadership
from provisioning.fleet.store.etcd.store import EtcdStore
from tests.etcd import Cluster, Member, etcd_cluster, gateway
from tests.provisioning.fleet.store.examples import (
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
from tests.provisioning.fleet.store.leaders import leader
from tests.waiting import eventually

LEASE_S = 2
BUSY_S = 2.0
"""What a busy machine may add to what is promised."""
DEADLINE_S = 0.5
SILENCE_S = 0.5


@pytest.fixture
def three(etcd_binary: Path, tmp_path: Path) -> Iterator[Cluster]:
    with etcd_cluster(etcd_binary, tmp_path, n_members=3) as cluster:
        yield cluster


@pytest.fixture
async def open_one(three: Cluster, fleet: str) -> AsyncIterator[Open]:
    """Each asks the first member first."""
    async with AsyncExitStack() as stack:

        def open_one(holder: str) -> Opened:
            client = Client(Access(three.addresses, deadline_s=DEADLINE_S))
            stack.push_async_callback(client.close)
            clock = SystemClock()
            return EtcdStore(client, fleet, clock=clock, silence_s=SILENCE_S), EtcdLeadership(
                client, fleet, holder=holder, clock=clock, lease_s=LEASE_S
            )

        yield open_one


async def loaded(store: Store) -> View | None:
    try:
        return await store.load()
    except StoreUnavailableError:
        return None


@pytest.mark.parametrize("harm", [Member.kill, Member.pause])
async def test_one_member_less_is_no_loss(
    three: Cluster, open_one: Open, harm: Callable[[Member], None]
) -> None:
    """The member in use dies or hangs: reads go on, a write is lost once at most."""
    async with leading(open_one("alice")) as (store, term):
        made = await put(store, term, instance("a", port=1))

        harm(three.members[0])

        await eventually(lambda: loaded(store), within_s=10)
        with_b = Put(instance("b", port=2), NEW)
        (done,) = await store.commit([with_b], term=term)
        assert done.refusal is None
        assert {"a", "b"} == set((await store.load()).stored)
        assert made[0] == (await store.load()).stored["a"]


@pytest.mark.parametrize("harm", [Member.kill, Member.pause])
async def test_a_watch_goes_on_at_another_member(
    three: Cluster, open_one: Open, harm: Callable[[Member], None]
) -> None:
    store, _ = open_one("carol")
    writer = open_one("alice")
    start = await store.load()
    watching = asyncio.ensure_future(watched(store, start.revision, lambda seen: len(seen) == 2))
    async with leading(writer) as (_, term):
        await put(writer[0], term, instance("a", port=1))
        await eventually(lambda: loaded(store))

        harm(three.members[0])

        with pytest.raises(StoreUnavailableError, match="cannot watch at etcd"):
            await watching
        await eventually(lambda: loaded(writer[0]), within_s=10)
        await put(writer[0], term, instance("b", port=2))
        last = await store.load()
        updates = await watched(
            store, start.revision, lambda seen: applied(start, seen).revision == last.revision
        )
        assert last == applied(start, updates)


async def test_a_cluster_that_is_gone_stops_changes_and_comes_back_whole(
    three: Cluster, open_one: Open
) -> None:
    opened = open_one("alice")
    async with opened[1].lead() as current:
        await put(opened[0], current.term, instance("a", port=1))
        three.kill()

        with pytest.raises(StoreUnavailableError):
            await opened[0].load()
        with pytest.raises(StoreUnavailableError, match="cannot write at etcd"):
            await opened[0].commit([Put(instance("b", port=2), NEW)], term=current.term)
        assert await opened[1].leader() is None
        await asyncio.wait_for(current.lost(), LEASE_S + BUSY_S)

    await asyncio.to_thread(three.start)
    async with leading(open_one("bob")) as (store, term):
        assert {"a"} == set((await store.load()).stored)
        await put(store, term, instance("b", port=2))
    with pytest.raises(FencedError):
        await opened[0].commit([Put(instance("c", port=3), NEW)], term=current.term)


async def test_a_cluster_without_most_of_its_members_accepts_nothing(
    three: Cluster, open_one: Open
) -> None:
    async with leading(open_one("alice")) as (store, term):
        for member in three.members[1:]:
            member.kill()

        with pytest.raises(StoreUnavailableError, match="most members reach each other"):
            await store.commit([Put(instance(), NEW)], term=term)
        with pytest.raises(StoreUnavailableError):
            await store.load()
        with pytest.raises(StoreUnavailableError):
            await anext(store.watch(1))


async def test_a_standby_leads_soon_after_the_leader_was_killed(
    three: Cluster, open_one: Open, fleet: str
) -> None:
    """Within twice the lease; every write that was acknowledged is there."""
    standby = open_one("bob")
    async with leader(three.url, fleet, "alice", lease_s=LEASE_S) as alice:
        await alice.says("leads")
        async with AsyncExitStack() as stack:
            waiting = asyncio.ensure_future(entered(stack, standby[1]))
            for _ in range(20):
                await alice.says("wrote")
            assert not waiting.done()

            alice.process.kill()

            current = await asyncio.wait_for(waiting, 2 * LEASE_S + BUSY_S)
            stored = (await standby[0].load()).stored
            versions = {name: one.version for name, one in stored.items()}
            acknowledged = await alice.ended()
            assert acknowledged.items() <= versions.items()
            assert 20 <= len(acknowledged)
            await put(standby[0], current.term, instance("bob-1", port=9_999))


async def test_a_leader_that_hung_longer_than_its_lease_writes_nothing_more(
    three: Cluster, open_one: Open, fleet: str
) -> None:
    standby = open_one("bob")
    async with leader(three.url, fleet, "alice", lease_s=LEASE_S) as alice:
        await alice.says("wrote")
        alice.process.send_signal(signal.SIGSTOP)
        async with leading(standby) as (store, term):
            await put(store, term, instance("bob-1", port=9_999))
            before = content(await store.load())

            alice.process.send_signal(signal.SIGCONT)

            await alice.says("lost")
            assert before == content(await store.load())


async def test_the_lease_outlives_the_member_that_keeps_it(three: Cluster, fleet: str) -> None:
    """It hangs, and the lease is kept through another one."""
    kept_at = follower(three)
    others = [one.address for one in three.members if one is not kept_at]
    client = Client(Access((kept_at.address, *others)))
    leadership = EtcdLeadership(client, fleet, holder="alice", clock=SystemClock(), lease_s=4)
    async with leadership.lead() as current:
        kept_at.pause()
        losing = asyncio.ensure_future(current.lost())

        await asyncio.wait({losing}, timeout=6)

        assert not losing.done()
    await losing
    await client.close()


def follower(cluster: Cluster) -> Member:
    """Return a member whose loss makes no election."""
    status = {one.name: gateway(one.address, "maintenance/status") for one in cluster.members}
    return next(
        one
        for one in cluster.members
        if status[one.name]["leader"] != status[one.name]["header"]["member_id"]
    )


async def test_a_lease_that_somebody_ended_is_noticed(three: Cluster, fleet: str) -> None:
    """By the answer to the next renewal, not only by the refused write."""
    clock = SystemClock()
    client = Client(Access(three.addresses))
    leadership = EtcdLeadership(client, fleet, holder="alice", clock=clock, lease_s=LEASE_S)
    async with leadership.lead() as current:
        address = three.members[0].address
        for lease in gateway(address, "lease/leases")["leases"]:
            gateway(address, "lease/revoke", ID=lease["ID"])

        await asyncio.wait_for(current.lost(), LEASE_S)
    await client.close()


async def test_a_watch_that_has_nothing_to_tell_stays_open(three: Cluster, open_one: Open) -> None:
    """Asked for a sign of life, an idle member gives one."""
    store, _ = open_one("carol")
    start = await store.load()
    watching = asyncio.ensure_future(watched(store, start.revision, bool))

    await asyncio.wait({watching}, timeout=6 * SILENCE_S)

    assert not watching.done()
    async with leading(open_one("alice")) as (writer, term):
        (made,) = await put(writer, term, instance())
    assert (made,) == (await watching)[0].stored


async def test_a_standby_is_not_deceived_by_a_member_that_hangs_with_the_leader(
    three: Cluster, open_one: Open, fleet: str
) -> None:
    standby = open_one("bob")
    async with (
        leader(three.url, fleet, "alice", lease_s=LEASE_S) as alice,
        AsyncExitStack() as stack,
    ):
        await alice.says("leads")
        waiting = asyncio.ensure_future(entered(stack, standby[1]))
        await alice.says("wrote")
        three.members[0].pause()
        alice.process.send_signal(signal.SIGSTOP)

        current = await asyncio.wait_for(waiting, 2 * LEASE_S + BUSY_S)

        assert "bob" == current.term.holder
