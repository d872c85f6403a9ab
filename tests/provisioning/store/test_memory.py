from __future__ import annotations

import asyncio

import pytest

from provisioning.errors import CompactedError, FencedError
from provisioning.store.base import NEW, Put
from provisioning.store.memory import MemoryBackend, MemoryLeadership, MemoryStore
from tests.provisioning.store.contract import StoreContract
from tests.provisioning.store.examples import PATIENCE_S, Open, Opened, instance, leading, put


@pytest.fixture
def open_one() -> Open:
    backend = MemoryBackend()
    return lambda holder: (MemoryStore(backend), MemoryLeadership(backend, holder=holder))


class TestMemory(StoreContract):
    """See `contract`."""

    is_never_closed = True


def opened(backend: MemoryBackend, holder: str = "alice") -> Opened:
    return MemoryStore(backend), MemoryLeadership(backend, holder=holder)


async def test_a_watch_that_is_too_far_behind_has_to_load_again() -> None:
    async with leading(opened(MemoryBackend(kept_updates=3))) as (store, term):
        start = await store.load()
        for n in range(4):
            await put(store, term, instance(f"chat-{n}", port=n + 1))

        with pytest.raises(CompactedError, match="load again"):
            await anext(store.watch(start.revision))
        assert start.revision + 2 == (await anext(store.watch(start.revision + 1))).revision


async def test_a_term_can_be_ended_from_outside() -> None:
    """As etcd does when a leader hangs: for tests of what a leader does then."""
    backend = MemoryBackend()
    _, leadership = opened(backend)
    async with leadership.lead() as current:
        assert backend.session is not None
        backend.end_term(backend.session)

        await asyncio.wait_for(current.lost(), PATIENCE_S)
        with pytest.raises(FencedError):
            await MemoryStore(backend).commit([Put(instance(), NEW)], term=current.term)
        async with leading(opened(backend, "bob")) as (_, term):
            assert term.epoch > current.term.epoch
