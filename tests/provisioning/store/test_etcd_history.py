"""etcd forgets history, fills up, and answers in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from provisioning.errors import CompactedError, StoreError, StoreUnavailableError
from provisioning.store.base import NEW, ChangeResult, Delete, Put, PutSpec, Store, Term, Update
from provisioning.store.etcd.client import Client
from provisioning.store.etcd.store import Keys
from tests.etcd import Cluster, encoded, etcd_cluster, gateway
from tests.provisioning.store.examples import (
    PATIENCE_S,
    Opened,
    applied,
    commit_one,
    instance,
    leading,
    put,
    watched,
)
from tests.provisioning.store.patience import opened_with, patient_client

PAUSE_S = 0.05
"""Between writes while a load is going on, at first."""


@pytest.fixture
async def client(etcd: Cluster) -> AsyncIterator[Client]:
    client = patient_client(etcd)
    yield client
    await client.close()


@pytest.fixture
def opened(client: Client, fleet: str) -> Opened:
    return opened_with(client, fleet)


async def test_a_watch_from_a_forgotten_revision_has_to_load_again(
    etcd: Cluster, opened: Opened
) -> None:
    async with leading(opened) as (store, term):
        start = await store.load()
        for n in range(3):
            await put(store, term, instance(f"chat-{n}", port=n + 1))
        last = await store.load()
        compact(etcd, last.revision)

        with pytest.raises(CompactedError, match="load again"):
            await anext(store.watch(start.revision))

        await put(store, term, instance("later", port=99))
        updates = await watched(store, last.revision, bool)
        assert await store.load() == applied(last, updates)


async def test_a_watch_that_runs_is_not_hurt_by_compaction(etcd: Cluster, opened: Opened) -> None:
    async with leading(opened) as (store, term):
        start = await store.load()
        async with aclosing(followed(store, start.revision)) as updates:
            for n in range(6):
                await put(store, term, instance(f"chat-{n}", port=n + 1))

                update = await asyncio.wait_for(anext(updates), PATIENCE_S)

                assert [f"chat-{n}"] == [one.instance.id for one in update.stored]
                compact(etcd, (await store.load()).revision)


async def followed(store: Store, after: int) -> AsyncGenerator[Update, None]:
    async for update in store.watch(after):
        yield update


async def test_loading_page_by_page_shows_one_moment(
    etcd: Cluster, client: Client, fleet: str
) -> None:
    """Two records are always written together, and history is dropped all the time.

    Ever less often while a load is going on, so that however slow it is, it comes to its end.
    """
    pause_s = PAUSE_S
    store, leadership = opened_with(client, fleet, page=1)
    async with leading((store, leadership)) as (_, term):
        pair = await put(store, term, instance("a", port=1), instance("z", port=2))
        await put(store, term, *(instance(f"m{n}", port=n + 3) for n in range(20)))

        async def rewrite() -> None:
            nonlocal pause_s
            versions = [one.version for one in pair]
            while True:
                changes = [
                    Put(one.instance, version) for one, version in zip(pair, versions, strict=True)
                ]
                versions = [one.version for one in await store.commit(changes, term=term)]
                with suppress(OSError):
                    await asyncio.to_thread(compact, etcd, versions[0])
                await asyncio.sleep(pause_s)
                pause_s *= 2

        writing = asyncio.ensure_future(rewrite())
        for _ in range(10):
            pause_s = PAUSE_S
            view = await store.load()
            assert 22 == len(view.stored)
            assert view.stored["a"].version == view.stored["z"].version
        writing.cancel()


async def test_a_long_history_is_caught_up_with(opened: Opened) -> None:
    """More than the 2 MB that etcd sends at once, and than a client takes by default."""
    big = "x" * 200_000
    async with leading(opened) as (store, term):
        start = await store.load()
        await put(store, term, *(instance(f"chat-{n}", port=n + 1, fault=big) for n in range(40)))
        last = await store.load()

        updates = await watched(
            store, start.revision, lambda seen: applied(start, seen).revision == last.revision
        )

        assert last == applied(start, updates)


async def test_a_step_is_whole_though_it_is_told_in_pieces(opened: Opened, client: Client) -> None:
    """Five records of one transaction, larger than a fragment together."""
    big = "x" * 190_000
    async with leading(opened) as (store, term):
        start = await store.load()
        for step in range(6):
            records = [instance(f"{step}-{n}", port=10 * step + n + 1, fault=big) for n in range(5)]
            await put(store, term, *records)

        updates = await watched(store, start.revision, lambda seen: len(seen) == 6)

        assert [5] * 6 == [len(update.stored) for update in updates]


async def test_what_is_not_ours_below_the_fleet_is_passed_over(
    etcd: Cluster, opened: Opened, fleet: str
) -> None:
    async with leading(opened) as (store, term):
        start = await store.load()
        write(etcd, Keys(fleet).state + b"later-release", b"{}")
        await put(store, term, instance())
        last = await store.load()

        updates = await watched(store, start.revision, lambda seen: len(seen) == 2)

        assert last == applied(start, updates)
        assert {"chat-0001"} == set(last.stored)


async def test_a_record_that_cannot_be_read_is_named(
    etcd: Cluster, opened: Opened, fleet: str
) -> None:
    write(etcd, Keys(fleet).instance("chat-1"), b'{"id": 1}')

    with pytest.raises(StoreError, match=rf"record /ollama-fleet/{fleet}/state/instances/chat-1"):
        await opened[0].load()


async def test_two_fleets_in_one_cluster_do_not_meet(client: Client, fleet: str) -> None:
    """Not even where the one's name begins with the other's."""
    one, other = opened_with(client, fleet), opened_with(client, f"{fleet}/2")
    async with leading(one) as (first, term), leading(other) as (second, other_term):
        await put(first, term, instance(port=1))
        await put(second, other_term, instance(port=1), instance("b", port=2))

        assert 1 == len((await first.load()).stored)
        assert 2 == len((await second.load()).stored)


async def test_a_full_etcd_says_what_to_do(etcd_binary: Path, tmp_path: Path) -> None:
    with etcd_cluster(etcd_binary, tmp_path, "--quota-backend-bytes=2000000") as small:
        client = patient_client(small)
        async with leading(opened_with(client, "small")) as (store, term):
            await put(store, term, instance("a"))
            spec = (await commit_one(store, term, PutSpec("first", NEW))).version

            with pytest.raises(StoreUnavailableError, match=r"space exceeded; compact and defrag"):
                await fill(store, term, spec)

            view = await store.load()
            # Deletions make room, and are let through.
            assert ChangeResult() == await commit_one(
                store, term, Delete("a", view.stored["a"].version)
            )
        await client.close()


async def fill(store: Store, term: Term, version: int) -> None:
    """Write the specification anew until etcd, which notices late, is full."""
    for _ in range(500):
        version = (await commit_one(store, term, PutSpec("x" * 500_000, version))).version


def compact(etcd: Cluster, revision: int) -> None:
    gateway(etcd.addresses[0], "kv/compaction", revision=revision, physical=True)


def write(etcd: Cluster, key: bytes, value: bytes) -> None:
    gateway(etcd.addresses[0], "kv/put", key=encoded(key), value=encoded(value))
