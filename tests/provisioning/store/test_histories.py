"""Any history of commits ends in each store as it does in the model."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from uuid import uuid4

import pytest
from hypothesis import given, settings

from ollama_fleet.clock import SystemClock
from provisioning.store.factory import open_store
from tests.etcd import Cluster
from tests.provisioning.store.examples import Opened, leading
from tests.provisioning.store.model_store import Wish, check_history, histories
from tests.provisioning.store.patience import opened_with, patient_client

# Hundreds of commits, each of which the disk or etcd has to acknowledge.
pytestmark = pytest.mark.timeout(600)


async def check(open_one: Callable[[], Opened], history: Sequence[Sequence[Wish]]) -> None:
    opened = open_one()
    try:
        async with leading(opened) as (store, term):
            await check_history(store, term, history)
    finally:
        await opened[0].close()


def opened_by(url: str) -> Opened:
    return open_store(url, "test", clock=SystemClock(), holder="alice")


@settings(max_examples=200)
@given(history=histories)
def test_memory_agrees_with_the_model(history: list[list[Wish]]) -> None:
    asyncio.run(check(lambda: opened_by("memory:"), history))


@settings(max_examples=60)
@given(history=histories)
def test_sqlite_agrees_with_the_model(history: list[list[Wish]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check(lambda: opened_by(f"sqlite:{folder}/fleet.db"), history))


def test_etcd_agrees_with_the_model(etcd: Cluster) -> None:
    @settings(max_examples=60)
    @given(history=histories)
    def agrees(history: list[list[Wish]]) -> None:
        fleet = f"fleet-{uuid4().hex}"
        asyncio.run(check(lambda: opened_with(patient_client(etcd), fleet), history))

    agrees()
