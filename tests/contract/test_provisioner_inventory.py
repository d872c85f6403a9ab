"""What the provisioner lists is what the exporter polls.

The two packages never import each other; this is where they meet: over HTTP, and by a file of what
is promised, `provisioner_instances.json`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from exporter.inventory import Inventory, source_for
from exporter.model import EngineName, State, Status, Target
from provisioning.fleet.model import Phase
from tests.exporter.pollers import polling
from tests.provisioning.fleet.api.board import instance, running_board
from tests.waiting import eventually

PROMISED = Path(__file__).parent / "provisioner_instances.json"


async def read(source: str) -> tuple[Target, ...]:
    inventory = Inventory([source_for(source)])
    await inventory.load()
    await inventory.close()
    return inventory.targets


async def test_the_provisioner_gives_what_is_promised(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        async with board.session.get("/instances") as response:
            assert PROMISED.read_text() == await response.text()


async def test_the_exporter_reads_what_is_promised() -> None:
    targets = {target.id: target for target in await read(str(PROMISED))}

    first = targets["llama-00001"]
    assert ("http://127.0.0.1:20501", "n1", "llama3.1:8b") == (first.url, first.node, first.model)
    assert (EngineName.OLLAMA, "ann") == (first.engine, first.developer)
    assert {"pool": "llama", "rack": "r1"} == dict(first.labels)
    assert "http://[::1]:20504" == targets["llama-00004"].url


@pytest.mark.parametrize("path", ["/instances", "/sd"])
async def test_the_exporter_reads_the_real_answer(path: str, tmp_path: Path) -> None:
    """Service discovery says the same in another form."""
    async with running_board(tmp_path) as board:
        assert await read(str(PROMISED)) == await read(f"{board.url}{path}")


async def test_an_inventory_that_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        source = source_for(f"{board.url}/instances")
        assert await source.read()
        assert await source.read() is None

        await board.put(instance(2))
        assert await source.read()
        await source.close()


async def test_phases_arrive_as_the_exporters_states(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        for phase, state in (
            (Phase.STARTING, State.PROVISIONING),
            (Phase.RUNNING, State.RUNNING),
            (Phase.DRAINING, State.DRAINING),
            (Phase.STOPPING, State.DRAINING),
            (Phase.FAILED, State.RUNNING),
        ):
            await board.put(instance(1, phase=phase))
            (first, *_) = await read(f"{board.url}/instances")
            assert (phase, state) == (phase, first.state)


async def test_states_become_the_fleets_statuses(tmp_path: Path) -> None:
    """No server is where the instances are said to be: what should run is not healthy."""
    async with running_board(tmp_path) as board:
        targets = await read(f"{board.url}/instances")
        async with polling(*targets) as polled:
            await eventually(polled.poller.has_seen_all.is_set)
            statuses = Counter(row.status for row in polled.poller.rows())

    assert (1, 2) == (statuses[Status.PROVISIONING], statuses[Status.DRAINING])
    assert (0, 6) == (statuses[Status.HEALTHY], statuses.total())
