"""The provisioner over two nodes as a rack has them: containerd behind nginx, with mutual TLS."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from provisioning.runtime.containerd.client import Certificates
from tests.e2e.containers import ContainerLab, container_lab
from tests.e2e.provisioner import Provisioner
from tests.nodeaccess import Authority, access_to, endpoint_of, running_nginx
from tests.waiting import eventually

N = 4


class Rack:
    """Nodes that are reached over the network alone, and a provisioner's certificate for them."""

    def __init__(self, lab: ContainerLab, certificates: Certificates) -> None:
        self.lab = lab
        self._certificates = certificates

    async def started(self) -> Provisioner:
        """Return a provisioner that leads."""
        return await self.lab.started(
            f"--nodes.ca-file={self._certificates.authority}",
            f"--nodes.certificate-file={self._certificates.certificate}",
            f"--nodes.key-file={self._certificates.key}",
        )

    async def whole(self, one: Provisioner) -> list[dict[str, Any]]:
        """Return the instances once all run, a process each."""
        told: list[dict[str, Any]] = []

        async def is_whole() -> bool:
            nonlocal told
            told = await one.instances()
            return self.lab.is_whole(told, N)

        try:
            await eventually(is_whole)
        except AssertionError as error:
            raise AssertionError(f"{self.lab.faults(told, N)}: {one.said[-3000:]}") from error
        return told


@pytest.fixture
async def rack(tmp_path: Path) -> AsyncIterator[Rack]:
    """Set up by the files and commands that `node-files` gives."""
    authority = Authority(tmp_path / "authority")
    async with container_lab(tmp_path) as lab, AsyncExitStack() as stack:
        for node in lab.nodes:
            folder = tmp_path / f"access-{node.name}"
            access = access_to(node.containerd, node.name, node.address, folder)
            authority.sign_node(access)
            await stack.enter_async_context(running_nginx(access))
            node.endpoint = endpoint_of(access)
        yield Rack(lab, authority.sign_client(access, tmp_path / "client"))


async def test_a_fleet_is_spread_over_two_nodes_behind_nginx_and_kept_whole(rack: Rack) -> None:
    one = await rack.started()
    await rack.lab.done("provisioner", "apply", str(rack.lab.containers(N)))

    instances = await rack.whole(one)
    assert {2} == set(Counter(each["node"] for each in instances).values())
    assert {(1, "running")} == {(each["generation"], each["phase"]) for each in instances}

    killed = rack.lab.units()[0]
    killed.kill()
    after = await rack.whole(one)
    assert [killed.instance_id] == [each["id"] for each in after if each["generation"] == 2]


@pytest.mark.nightly
async def test_a_provisioner_that_follows_adopts_what_is_behind_nginx(rack: Rack) -> None:
    first = await rack.started()
    await rack.lab.done("provisioner", "apply", str(rack.lab.containers(N)))
    await rack.whole(first)
    before = set(rack.lab.units())

    first.kill()
    instances = await rack.whole(await rack.started())

    assert before == set(rack.lab.units())
    assert {1} == {each["generation"] for each in instances}
