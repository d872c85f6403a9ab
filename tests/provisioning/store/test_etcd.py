from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from http import HTTPStatus

import pytest

from provisioning.api.server import status_of
from provisioning.errors import TooLargeError
from provisioning.store.base import NEW, PutSpec
from tests.etcd import Cluster
from tests.provisioning.store.contract import StoreContract
from tests.provisioning.store.examples import Open, Opened, leading
from tests.provisioning.store.patience import opened_with, patient_client


@pytest.fixture
async def open_one(etcd: Cluster, fleet: str) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        def open_one(holder: str) -> Opened:
            client = patient_client(etcd)
            stack.push_async_callback(client.close)
            return opened_with(client, fleet, holder=holder)

        yield open_one


@pytest.mark.parametrize("size_bytes", [1_600_000, 3_000_000])
async def test_what_is_more_than_etcd_takes_is_told_with_its_size_and_not_written(
    open_one: Open, size_bytes: int
) -> None:
    """etcd refuses the one, and gRPC does so before etcd has seen the other."""
    async with leading(open_one("alice")) as (store, term):
        with pytest.raises(TooLargeError, match=r"too large|larger than max") as caught:
            await store.commit([PutSpec("x" * size_bytes, NEW)], term=term)

        assert f"{size_bytes // 10_000 / 100:,.2f} MB" in str(caught.value)
        assert "--max-request-bytes" in str(caught.value)
        assert (await store.load()).spec is None


def test_what_is_more_than_the_store_takes_is_for_the_client_to_mend() -> None:
    assert HTTPStatus.REQUEST_ENTITY_TOO_LARGE is status_of(TooLargeError("too large"))


class TestEtcd(StoreContract):
    """See `contract`."""
