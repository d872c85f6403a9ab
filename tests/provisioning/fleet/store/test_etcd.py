from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from provisioning.fleet.clock import SystemClock
from provisioning.fleet.store.opening import open_store
from tests.etcd import Cluster
from tests.provisioning.fleet.store.contract import StoreContract
from tests.provisioning.fleet.store.examples import Open, Opened


@pytest.fixture
async def open_one(etcd: Cluster, fleet: str) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        def open_one(holder: str) -> Opened:
            store, leadership = open_store(etcd.url, fleet, clock=SystemClock(), holder=holder)
            stack.push_async_callback(store.close)
            return store, leadership

        yield open_one


class TestEtcd(StoreContract):
    """See `contract`."""
