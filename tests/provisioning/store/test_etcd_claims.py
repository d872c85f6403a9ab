"""A port whose claim somebody has left behind, by deleting a record by hand, is free again."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from provisioning.errors import FencedError
from provisioning.store.base import NEW, Done, Put, Refusal, Store, Term
from provisioning.store.etcd.store import MAX_CLAIMS, Claim, Keys, releasing
from provisioning.store.records import place_of
from tests.etcd import Cluster, encoded, gateway
from tests.provisioning.store.examples import (
    Opened,
    commit_one,
    instance,
    instances,
    leading,
    put,
)
from tests.provisioning.store.patience import opened_with, patient_client

OLD, NEXT = instance("old", port=7), instance("next", port=7)
TAKEN = Done(refusal=Refusal.PORT_TAKEN)


@pytest.fixture
async def opened(etcd: Cluster, fleet: str) -> AsyncIterator[Opened]:
    client = patient_client(etcd)
    yield opened_with(client, fleet)
    await client.close()


@pytest.fixture
def keys(fleet: str) -> Keys:
    return Keys(fleet)


def delete_by_hand(etcd: Cluster, key: bytes) -> None:
    """Do as `etcdctl del KEY` does."""
    gateway(etcd.addresses[0], "kv/deleterange", key=encoded(key))


def put_by_hand(etcd: Cluster, key: bytes, value: bytes) -> None:
    gateway(etcd.addresses[0], "kv/put", key=encoded(key), value=encoded(value))


async def is_put(store: Store, term: Term) -> bool:
    """Put the next instance at the old one's port, and say whether that went well."""
    done = await commit_one(store, term, Put(NEXT, NEW))
    assert done.refusal in (None, Refusal.PORT_TAKEN)
    return done.refusal is None


async def test_the_port_of_a_record_that_was_deleted_by_hand_is_free_after_one_refusal(
    etcd: Cluster, opened: Opened, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with leading(opened) as (store, term):
        await put(store, term, OLD)
        delete_by_hand(etcd, keys.instance("old"))

        assert [False, True] == [await is_put(store, term) for _ in range(2)]

    words = "claims of ports that no record stands behind are given back: 1, such as port 7 of n1"
    assert [f"{words} for old"] == caplog.messages


async def test_the_port_that_a_record_had_before_it_was_deleted_by_hand_is_free(
    etcd: Cluster, opened: Opened, keys: Keys
) -> None:
    """It was made again with another port meanwhile."""
    async with leading(opened) as (store, term):
        await put(store, term, OLD)
        delete_by_hand(etcd, keys.instance("old"))
        await put(store, term, instance("old", port=8))

        assert [False, True] == [await is_put(store, term) for _ in range(2)]
        with_port_of_old = Put(instance("third", port=8), NEW)
        assert [TAKEN] * 2 == [await commit_one(store, term, with_port_of_old) for _ in range(2)]


async def test_a_record_that_was_deleted_by_hand_can_be_made_again_where_it_was(
    etcd: Cluster, opened: Opened, keys: Keys
) -> None:
    async with leading(opened) as (store, term):
        await put(store, term, OLD)
        delete_by_hand(etcd, keys.instance("old"))

        assert TAKEN == await commit_one(store, term, Put(OLD, NEW))
        await put(store, term, OLD)


async def test_a_port_that_is_in_use_stays_taken(opened: Opened) -> None:
    async with leading(opened) as (store, term):
        (made,) = await put(store, term, OLD)

        assert [False] * 3 == [await is_put(store, term) for _ in range(3)]
        assert {"old": made} == (await store.load()).stored


async def test_a_port_whose_record_cannot_be_read_stays_taken(
    etcd: Cluster, opened: Opened, keys: Keys
) -> None:
    async with leading(opened) as (store, term):
        await put(store, term, OLD)
        put_by_hand(etcd, keys.instance("old"), b"of a later release")

        assert [False] * 2 == [await is_put(store, term) for _ in range(2)]


def test_a_claim_is_given_back_only_as_it_was_read_and_by_who_leads() -> None:
    """Somebody may have taken the port, or made the record again, since it was read."""
    keys = Keys("demo")
    request = releasing([Claim(("n1", 7), "old", 5, owner_version=9)], keys=keys, epoch=3)

    (leader,) = request.compare
    assert (keys.leader, 3) == (leader.key, leader.create_revision)
    (deletion,) = request.success
    assert [(keys.port(("n1", 7)), 5), (keys.instance("old"), 9)] == [
        (one.key, one.mod_revision) for one in deletion.request_txn.compare
    ]
    assert not request.failure
    assert not deletion.request_txn.failure


async def test_more_claims_than_fit_into_one_request_are_given_back(
    etcd: Cluster, opened: Opened, keys: Keys
) -> None:
    made = instances(2 * MAX_CLAIMS + 10)
    for one in made:
        put_by_hand(etcd, keys.port(place_of(one)), b"nobody")
    async with leading(opened) as (store, term):
        done = await store.commit([Put(one, NEW) for one in made], term=term)

        assert {Refusal.PORT_TAKEN} == {one.refusal for one in done}
        await put(store, term, *made)


async def test_who_does_not_lead_any_more_gives_no_claim_back(
    etcd: Cluster, opened: Opened, keys: Keys
) -> None:
    async with leading(opened) as (store, term):
        await put(store, term, OLD)
    delete_by_hand(etcd, keys.instance("old"))

    with pytest.raises(FencedError):
        await store.commit([Put(NEXT, NEW)], term=term)
    async with leading(opened) as (store, next_term):
        assert not await is_put(store, next_term)
