"""What the provisioner lists is what the exporter polls.

The two packages never import each other; this is where they meet: over HTTP, and by a file of what
is promised, `provisioner_instances.json`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from exporter.inventory import Change, Inventory, SourceSettings, sources_for
from exporter.inventory.sources import AGE_HEADER
from exporter.model import EngineName, State, Status, Target
from exporter.steps import run_with_pauses
from provisioning.api.routes import AGE_HEADER as TOLD_AGE_HEADER
from provisioning.model import Phase
from tests.exporter.pollers import polling
from tests.provisioning.api.board import instance, running_board
from tests.provisioning.api.served import Served
from tests.waiting import eventually

PROMISED = Path(__file__).parent / "provisioner_instances.json"


async def read(source: str) -> tuple[Target, ...]:
    inventory = Inventory(sources_for([source]))
    await inventory.load()
    await inventory.close()
    return inventory.targets


async def changed(inventory: Inventory) -> Change:
    """Return the next change: on a busy machine no server may answer the first time."""
    changes: list[Change] = []

    async def refreshed() -> bool:
        changes.append(await inventory.refresh())
        return bool(changes[-1])

    await eventually(refreshed)
    return changes[-1]


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
        (source,) = sources_for([f"{board.url}/instances"])
        assert await source.read()
        assert await source.read() is None

        await board.put(instance(2))
        assert await source.read()
        await source.close()


def test_the_lists_age_goes_by_one_name() -> None:
    assert TOLD_AGE_HEADER == AGE_HEADER


async def test_a_provisioner_that_hangs_and_one_that_stops_are_stood_in_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first of two hangs; when it is well again, the other one stops."""
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    with Served(tmp_path / "1") as first:
        async with running_board(tmp_path / "2") as second:
            urls = f"{first.url}/instances", f"{second.url}/instances"
            inventory = Inventory(sources_for(["|".join(urls)], SourceSettings(timeout_s=4.0)))
            await inventory.load()
            targets = inventory.targets

            with first.hanging():
                await second.put(instance(7))
                change = await changed(inventory)
                assert ["llama-00007"] == [one.id for one in change.added]
                assert f"inventory server changed from={urls[0]} to={urls[1]}" in caplog.text
                assert not await inventory.refresh()
        change = await changed(inventory)
        await inventory.close()

    assert ["llama-00007"] == [one.id for one in change.removed]
    assert targets == inventory.targets
    assert inventory.states[0].last_reload_successful


async def test_a_provisioner_without_its_store_gives_way_to_one_that_has_it(
    tmp_path: Path,
) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    async with running_board(tmp_path / "1") as first, running_board(tmp_path / "2") as second:
        first.cache.age_s = 1e6
        await second.put(instance(7))

        targets = await read(f"{first.url}/instances|{second.url}/instances")

    assert "llama-00007" in {target.id for target in targets}


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
            statuses = Counter(row.status for row in run_with_pauses(polled.poller.rows()))

    assert (1, 2) == (statuses[Status.PROVISIONING], statuses[Status.DRAINING])
    assert (0, 6) == (statuses[Status.HEALTHY], statuses.total())
