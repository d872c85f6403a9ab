"""Any history of commits ends in each store as it does in the model."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from uuid import uuid4

from hypothesis import given, settings

from provisioning.fleet.clock import SystemClock
from provisioning.fleet.store.opening import open_store
from tests.etcd import Cluster
from tests.provisioning.fleet.store.examples import leading
from tests.provisioning.fleet.store.model_store import Wish, check_history, histories


async def check(url: str, history: Sequence[Sequence[Wish]]) -> None:
    opened = open_store(url, f"fleet-{uuid4().hex}", clock=SystemClock(), holder="alice")
    try:
        async with leading(opened) as (store, term):
            await check_history(store, term, history)
    finally:
        await opened[0].close()


@settings(max_examples=200, deadline=None)
@given(history=histories)
def test_memory_agrees_with_the_model(history: list[list[Wish]]) -> None:
    asyncio.run(check("memory:", history))


@settings(max_examples=60, deadline=None)
@given(history=histories)
def test_sqlite_agrees_with_the_model(history: list[list[Wish]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check(f"sqlite:{folder}/fleet.db", history))


def test_etcd_agrees_with_the_model(etcd: Cluster) -> None:
    @settings(max_examples=60, deadline=None)
    @given(history=histories)
    def agrees(history: list[list[Wish]]) -> None:
        asyncio.run(check(etcd.url, history))

    agrees()
