"""A real etcd of one member that the tests of a file share; each has a fleet of its own in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import program
from tests.etcd import Cluster, etcd_cluster

pytest.register_assert_rewrite("tests.provisioning.store.contract")


@pytest.fixture(scope="session")
def etcd_binary() -> Path:
    return program("etcd")


@pytest.fixture(scope="module")
def etcd(etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with etcd_cluster(etcd_binary, tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture
def fleet() -> str:
    return f"fleet-{uuid4().hex[:8]}"
