from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.containerd import Containerd, running_containerd
from tests.provisioning.runtime.containers import ContainerdLab
from tests.provisioning.runtime.contract import (
    FLEET,
    GRACE_S,
    OTHER_FLEET,
    Lab,
    RuntimeContract,
)
from tests.waiting import eventually


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    with running_containerd(tmp_path_factory.mktemp("containerd")) as daemon:
        yield daemon


@pytest.fixture
async def lab(containerd: Containerd, busybox: Path) -> AsyncIterator[ContainerdLab]:
    lab = ContainerdLab(containerd, busybox)
    await lab.prepare(FLEET, OTHER_FLEET)
    yield lab
    await lab.close()


class TestContainerdRuntime(RuntimeContract):
    """Containers keep the promises of every runtime."""

    async def test_a_container_that_ends_when_asked_is_removed_long_before_the_grace_is_over(
        self, lab: Lab
    ) -> None:
        """Process 1 of a container is asked in vain before it handles the signal."""
        assert isinstance(lab, ContainerdLab)
        runtime, container = lab.open(), lab.container()
        await runtime.start(container)
        await eventually(lambda: lab.is_ready(container))

        async with asyncio.timeout(GRACE_S * 6):
            await runtime.remove(container.name, grace_s=GRACE_S * 12)

        assert () == await runtime.containers()
