"""What the provisioner lists is what the exporter polls: over HTTP, and as promised in a file."""

from __future__ import annotations

from pathlib import Path

from exporter.engines import ENGINE_NAMES
from exporter.inventory import Inventory, sources_for
from exporter.model import HealthCheck, State, Target
from provisioning.model import Phase
from provisioning.spec.defaults import ENGINES
from tests.provisioning.api.board import instance, running_board

PROMISED = Path(__file__).parent / "provisioner_instances.json"


async def read(source: str) -> tuple[Target, ...]:
    inventory = Inventory(sources_for([source]))
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
    assert ("ollama", "ann") == (first.engine, first.developer)
    assert (1000.0, HealthCheck.POLL) == (first.started_s, first.health)
    assert {"pool": "llama", "rack": "r1"} == dict(first.labels)
    assert "http://[::1]:20504" == targets["llama-00004"].url


def test_a_pool_may_have_any_engine_that_the_exporter_knows() -> None:
    assert set(ENGINE_NAMES) == set(ENGINES)


async def test_service_discovery_says_the_same_in_another_form(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        assert await read(str(PROMISED)) == await read(f"{board.url}/sd")


async def test_an_inventory_that_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        (source,) = sources_for([f"{board.url}/instances"])
        assert await source.read()
        assert await source.read() is None

        await board.put(instance(2))
        assert await source.read()
        await source.close()


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
